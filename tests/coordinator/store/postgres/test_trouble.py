"""Servers that stop, restart and hang; connections that break at any word."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from coordinator.store.postgres import Limits, PostgresStore, open_postgres
from coordinator.store.postgres.listener import Listener
from coordinator.store.sql import Steps, StoreUnavailable, one, recall, rows
from schedules.clock import SystemClock
from tests.coordinator.store.contract import SOON, add_one, keep, lookup, several, write
from tests.coordinator.store.postgres.wire import Wire, wire
from tests.postgres import PASSWORD, Server

QUICK = Limits(connect=1.0, acquire=1.0, command=1.0, patience=1.0, heartbeat=0.2)
BOUND = 5.0
"""Seconds in which QUICK has an answer, whatever happens."""


def arrive(key: str) -> Steps[None]:
    """Run again from the start after a loss: so it takes no generators that are used up by then."""
    yield from write(key)
    yield from keep(key, key.encode() * 100)


def opened(url: str, limits: Limits = QUICK):
    return open_postgres(url, "one", SystemClock(), limits)


async def test_what_was_acknowledged_survives_servers_that_crash(own: Server, own_url: str):
    acknowledged: set[str] = set()
    stop = asyncio.Event()

    async def work(store: PostgresStore, name: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            key = f"{name}-{number}"
            try:
                await store.run(arrive, key)
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                acknowledged.add(key)

    async with opened(own_url, Limits(patience=5.0)) as store:
        async with asyncio.TaskGroup() as group:
            for worker in range(10):
                group.create_task(work(store, f"w{worker}"))
            for _ in range(3):
                before = len(acknowledged)
                async with asyncio.timeout(30):
                    while len(acknowledged) < before + 100:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await asyncio.to_thread(own.restart, immediate=True)
            stop.set()
        held = {row["key"] for row in await store.read(rows, "SELECT key FROM meta")}
        assert acknowledged <= held
        for key in acknowledged:
            assert await store.read(recall, key) == key.encode() * 100


async def test_a_server_that_is_stopped_gives_errors_in_bounded_time_and_then_it_goes_on(
    own: Server, own_url: str
):
    async with opened(own_url) as store:
        await store.run(write, "word", "before")
        await asyncio.to_thread(own.stop)
        for call in (store.run, store.read):
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await call(lookup, "word")
            assert time.monotonic() - start < BOUND
        with pytest.raises(StoreUnavailable):
            await store.check()
        await store.changed(0.1)

        hearing = asyncio.ensure_future(store.changed(4 * SOON))
        await asyncio.to_thread(own.start)
        start = time.monotonic()
        await hearing  # something may have been missed
        assert time.monotonic() - start < SOON
        await store.check()
        assert await store.run(lookup, "word") == "before"


async def test_a_server_that_is_away_for_a_moment_is_not_noticed(own: Server, own_url: str):
    async with opened(own_url, Limits(patience=20.0)) as store:
        await store.run(write, "count", "0")
        await asyncio.to_thread(own.stop)
        adding = asyncio.ensure_future(store.run(add_one, "count"))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(own.start)
        assert await adding == 1


async def test_closing_while_the_server_is_away_ends(own: Server, own_url: str):
    start = 0.0
    async with opened(own_url) as store:
        await store.run(write, "word")
        await asyncio.to_thread(own.stop)
        writing = asyncio.ensure_future(store.run(write, "word"))
        await asyncio.sleep(0.05)
        start = time.monotonic()
    assert time.monotonic() - start < BOUND
    with pytest.raises(StoreUnavailable):
        await writing


async def test_a_lock_that_is_held_for_long_is_waited_for_in_bounds(url: str):
    holder = await asyncpg.connect(url)
    async with opened(url) as store:
        await store.run(write, "count", "0")
        async with holder.transaction():
            await holder.execute("SELECT * FROM meta WHERE key = 'count' FOR UPDATE")
            start = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await store.run(add_one, "count")
            assert time.monotonic() - start < BOUND
            assert await store.read(lookup, "count") == "0"
        assert await store.run(add_one, "count") == 1
    await holder.close()


async def test_readers_wait_for_no_writer(url: str):
    holder = await asyncpg.connect(url)
    async with opened(url, Limits()) as store:
        await store.run(write, "count", "0")
        async with holder.transaction():
            await holder.execute("SELECT * FROM meta WHERE key = 'count' FOR UPDATE")
            adding = [asyncio.ensure_future(store.run(add_one, "count")) for _ in range(20)]
            async with asyncio.timeout(SOON):
                for _ in range(20):
                    assert await store.read(lookup, "count") == "0"
        assert sorted(await asyncio.gather(*adding)) == list(range(1, 21))
    await holder.close()


async def test_two_that_lock_each_other_out_both_come_through(url: str):
    def both(first: str, second: str) -> Steps[None]:
        yield from add_one(first)
        yield from rows("SELECT pg_sleep(0.05)")
        yield from add_one(second)

    async with opened(url, Limits()) as store:
        for key in ("a", "b"):
            await store.run(write, key, "0")
        pairs = [("a", "b"), ("b", "a")] * 3
        await asyncio.gather(*(store.run(both, *pair) for pair in pairs))
        assert await store.read(several, lookup("a"), lookup("b")) == ["6", "6"]


# Connections that break at a word


@asynccontextmanager
async def over_a_wire(
    postgres: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[PostgresStore, Wire]]:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    database = url.partition(":///")[2].partition("?")[0]
    async with wire(postgres.port) as made:
        url = f"postgresql://tests@127.0.0.1:{made.port}/{database}?sslmode=disable"
        async with opened(url) as store:
            await store.run(write, "count", "0")
            yield store, made


@pytest.mark.parametrize("word", [b"BEGIN", b"FOR UPDATE", b"UPDATE meta"])
async def test_a_connection_lost_before_the_commit_is_not_noticed(
    postgres: Server, url: str, monkeypatch: pytest.MonkeyPatch, word: bytes
):
    async with over_a_wire(postgres, url, monkeypatch) as (store, made):
        made.cut(word)
        assert await store.run(add_one, "count") == 1
        assert made.cuts == 1
        assert await store.read(lookup, "count") == "1"


@pytest.mark.parametrize(("delivered", "count"), [(False, "0"), (True, "1")])
async def test_a_commit_whose_answer_is_lost_is_not_tried_again(
    postgres: Server, url: str, monkeypatch: pytest.MonkeyPatch, delivered: bool, count: str
):
    async with over_a_wire(postgres, url, monkeypatch) as (store, made):
        made.cut(b"COMMIT\0", delivered=delivered)
        with pytest.raises(StoreUnavailable, match="not known whether"):
            await store.run(add_one, "count")
        assert made.cuts == 1
        assert await store.read(lookup, "count") == count


async def test_a_connection_that_breaks_again_and_again_is_given_up(
    postgres: Server, url: str, monkeypatch: pytest.MonkeyPatch
):
    async with over_a_wire(postgres, url, monkeypatch) as (store, made):
        made.cut(b"FOR UPDATE", times=1000)
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.run(add_one, "count")
        assert time.monotonic() - start < BOUND
        assert 1 < made.cuts < 20


async def test_a_transaction_that_was_given_up_lets_go_of_its_locks(url: str):
    def slow() -> Steps[None]:
        yield from add_one("count")
        yield from rows("SELECT pg_sleep(30)")

    async with opened(url) as store:
        await store.run(write, "count", "0")
        with pytest.raises(StoreUnavailable):
            await store.run(slow)
        async with asyncio.timeout(SOON):
            row = await store.run(one, "SELECT value FROM meta WHERE key = 'count' FOR UPDATE")
        assert row is not None
        assert row["value"] == "0"


async def test_a_transaction_given_as_a_generator_that_is_used_up_is_not_run_again(
    postgres: Server, url: str, monkeypatch: pytest.MonkeyPatch
):
    async with over_a_wire(postgres, url, monkeypatch) as (store, made):
        made.cut(b"UPDATE meta")
        with pytest.raises(StoreUnavailable):
            await store.run(several, write("word"), add_one("count"))
        assert await store.read(lookup, "word") is None


async def test_an_idle_connection_that_hears_it_is_thrown_out_is_not_used_again(
    postgres: Server, url: str, store: PostgresStore
):
    # asyncpg reads the server's farewell, but not yet that the connection has ended: whoever uses
    # it at that moment meets asyncpg's own confusion, which is no PostgresError.
    for _ in range(3):
        await store.run(write, "some", "thing")
        farewell = b"E" + (33).to_bytes(4, "big") + b"SFATAL\0C57P01\0Mthrown out now\0\0"
        for holder in store._connections._pool._holders:
            if holder._con is not None and not holder._in_use:
                holder._con._protocol.data_received(farewell)
        assert await store.read(lookup, "some") == "thing"


async def test_a_listener_whose_connection_is_of_no_use_listens_again(store: PostgresStore):
    beaten = asyncio.Event()

    async def beat(_: object) -> None:
        beats.append(1)
        if len(beats) == 1:
            raise asyncpg.InterfaceError("connection is closed")
        beaten.set()

    beats: list[int] = []
    listener = Listener("teller", store._connections.connect, beat, Limits())
    running = asyncio.ensure_future(listener.run())
    try:
        await asyncio.wait_for(beaten.wait(), 10)
    finally:
        running.cancel()
