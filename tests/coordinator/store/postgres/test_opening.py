"""What can be wrong with a database is said in one line, which never holds a password."""

import asyncio
import socket

import asyncpg
import pytest

from coordinator.store.postgres import Limits, open_postgres
from coordinator.store.postgres.schema import address
from coordinator.store.sql import StoreError, one
from schedules.clock import SystemClock
from tests.coordinator.store.contract import lookup, write
from tests.postgres import PASSWORD, Server

WRONG = "not-the-pass-word"


def opened(url: str):
    return open_postgres(url, "one", SystemClock(), Limits(connect=2.0))


async def refusal(url: str) -> str:
    with pytest.raises(StoreError) as raised:
        async with opened(url):
            pass
    line = str(raised.value)
    assert "\n" not in line
    assert raised.value.__cause__ is None
    assert WRONG not in line
    return line


def name_of(url: str) -> str:
    return url.partition(":///")[2].partition("?")[0]


async def test_a_password_comes_with_the_url_or_from_the_environment(
    postgres: Server, url: str, monkeypatch: pytest.MonkeyPatch
):
    tcp = postgres.url(name_of(url), tcp=True)
    async with opened(tcp.replace("tests@", f"tests:{PASSWORD.replace(' ', '%20')}@")) as store:
        await store.run(write, "word", "over TCP")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    async with opened(tcp) as store:
        assert await store.read(lookup, "word") == "over TCP"


async def test_a_wrong_password(postgres: Server, url: str):
    tcp = postgres.url(name_of(url), tcp=True)
    line = await refusal(tcp.replace("tests@", f"tests:{WRONG}@"))
    assert "does not let us in" in line
    assert f"127.0.0.1:{postgres.port}" in line


async def test_tls_that_the_url_wants_and_the_server_lacks(postgres: Server, url: str):
    tcp = postgres.url(name_of(url), tcp=True).replace("tests@", f"tests:{WRONG}@")
    assert "cannot be reached" in await refusal(f"{tcp}?sslmode=require")


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://u:{WRONG}@h/d",
        f"postgresql://u:{WRONG}/x@h/d",
        f"u:{WRONG}@h",
        f"postgresql://u@h:{WRONG}/d",
        f"postgresql://u@127.0.0.1/d?sslmode={WRONG}",
    ],
)
async def test_what_is_no_url(url: str):
    assert "write postgresql://USER@HOST:5432/DATABASE" in await refusal(url)


async def test_no_server():
    assert "cannot be reached" in await refusal(f"postgresql://u:{WRONG}@127.0.0.1:1/d")
    assert "cannot be reached" in await refusal(f"postgresql://u:{WRONG}@/d?host=/nowhere")


async def test_a_server_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "does not answer" in await refusal(f"postgresql://u:{WRONG}@127.0.0.1:{port}/d")


async def test_a_database_that_does_not_exist(postgres: Server):
    assert "createdb" in await refusal(postgres.url("nothing"))


async def test_a_database_of_another_encoding(postgres: Server):
    make = "CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0"
    await asyncio.to_thread(postgres.execute, make)
    assert "UTF-8" in await refusal(postgres.url("latin"))


async def test_another_version_of_the_tables(url: str):
    async with opened(url) as store:
        await store.run(write, "schema_version", "99")
    assert "schema 99" in await refusal(url)


@pytest.mark.parametrize(
    "table",
    ["meta (id BIGINT)", "meta (key TEXT, value TEXT)", "payloads (x BIGINT)"],
)
async def test_another_applications_tables(postgres: Server, url: str, table: str):
    await asyncio.to_thread(postgres.execute, f"CREATE TABLE {table}", name_of(url))
    assert "another application's tables" in await refusal(url)


async def test_a_user_without_the_right_to_make_tables_may_use_them(postgres: Server, url: str):
    user = f"guest_{name_of(url)}"
    await asyncio.to_thread(postgres.execute, f"CREATE USER {user}")
    revoke = "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
    await asyncio.to_thread(postgres.execute, revoke, name_of(url))
    theirs = url.replace("user=tests", f"user={user}")
    assert "CREATE on its schema" in await refusal(theirs)
    async with opened(url):
        pass
    grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {user}"
    await asyncio.to_thread(postgres.execute, grant, name_of(url))
    async with opened(theirs) as store:
        await store.run(write, "word", "theirs")
        await store.check()


async def test_a_read_only_database(postgres: Server, url: str):
    name = name_of(url)
    alter = f"ALTER DATABASE {name} SET default_transaction_read_only = on"
    await asyncio.to_thread(postgres.execute, alter)
    assert "read-only" in await refusal(url)


async def test_several_that_start_at_once_make_the_tables_once(url: str):
    async def start(number: int) -> None:
        async with opened(url) as store:
            await store.run(write, f"w-{number}")

    await asyncio.gather(*(start(number) for number in range(6)))
    async with opened(url) as store:
        row = await store.read(one, "SELECT count(*) AS n FROM meta WHERE key LIKE 'w-%'")
        assert row is not None
        assert row["n"] == 6


async def test_commits_are_durable_whatever_the_database_is_set_to(postgres: Server, url: str):
    name = name_of(url)
    text = "SELECT current_setting('synchronous_commit') AS value"
    for setting, expected in (("off", "on"), ("remote_apply", "remote_apply")):
        alter = f"ALTER DATABASE {name} SET synchronous_commit = {setting}"
        await asyncio.to_thread(postgres.execute, alter)
        async with opened(url) as store:
            for call in (store.run, store.run, store.read):
                row = await call(one, text)
                assert row is not None
                assert row["value"] == expected
    async with opened(f"{url}&synchronous_commit=off") as store:
        row = await store.run(one, text)
        assert row is not None
        assert row["value"] == "on"


async def test_a_server_without_fsync_is_said(
    own: Server, own_url: str, caplog: pytest.LogCaptureFixture
):
    async with opened(own_url):
        assert "fsync" not in caplog.text
    own.settings["fsync"] = "off"
    await asyncio.to_thread(own.restart)
    async with opened(own_url):
        assert "a power cut may lose" in caplog.text


async def test_the_operator_sees_whose_connections_they_are(url: str):
    connection = await asyncpg.connect(url)
    async with opened(url):
        names = await connection.fetch("SELECT application_name FROM pg_stat_activity")
        assert "lamplighter one" in [row["application_name"] for row in names]
    await connection.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@db.example:5432/fleet?sslmode=require", "db.example:5432/fleet"),
        ("postgresql://db.example/fleet", "db.example/fleet"),
        ("postgres://u@[::1]:5432/fleet", "[::1]:5432/fleet"),
        ("postgresql://u:se@cret@a,b:5433/fleet", "a,b:5433/fleet"),
        ("postgresql:///fleet?host=/run/postgresql", "/fleet"),
        ("postgresql://h/d?user=a@b&password=x@secret", ""),
        ("postgresql://u:secret", ""),
        ("postgresql://u:se?cret@h/d", ""),
        ("postgresql://", ""),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, said: str):
    assert address(url) == f"the database {said}".rstrip()
