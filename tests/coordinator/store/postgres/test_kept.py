"""Kept updates: those of closed rounds go, damaged ones are known."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from coordinator.store.postgres import PostgresStore, open_postgres
from coordinator.store.sql import Keep, Steps, recall, rows
from schedules.clock import SystemClock
from tests.coordinator.store.contract import SOON, discard, keep
from tests.postgres import Server


@pytest.fixture
async def database(url: str, store: PostgresStore) -> AsyncIterator[asyncpg.Connection]:
    """Another look at the database."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


def keep_many(round: int, count: int) -> Steps[None]:
    for number in range(count):
        yield Keep("digits", round, f"a-{round}-{number}", b"data")


async def emptied(database: asyncpg.Connection) -> None:
    """Wait until all that is discarded has been deleted."""
    async with asyncio.timeout(SOON):
        while await database.fetchval("SELECT count(*) FROM discards"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_discarded_round_is_deleted_piece_by_piece(
    store: PostgresStore, database: asyncpg.Connection
):
    await store.run(keep_many, 1, 450)
    await store.run(keep_many, 2, 3)
    await store.run(discard, 1)
    assert await store.read(recall, "a-1-449") is None
    await emptied(database)
    left = await database.fetch("SELECT assignment FROM payloads ORDER BY 1")
    assert [row["assignment"] for row in left] == ["a-2-0", "a-2-1", "a-2-2"]


async def test_what_a_process_left_is_deleted_by_the_next(
    url: str, store: PostgresStore, database: asyncpg.Connection
):
    await store.run(keep_many, 1, 3)
    # As after a kill between the commit and the deletion.
    await database.execute(
        "INSERT INTO discards SELECT task, round, max(number) FROM payloads GROUP BY 1, 2"
    )
    assert await store.read(recall, "a-1-0") is None
    async with open_postgres(url, "two", SystemClock()):
        await emptied(database)
    assert await database.fetchval("SELECT count(*) FROM payloads") == 0


async def test_two_that_delete_at_once_leave_nothing(
    url: str, store: PostgresStore, database: asyncpg.Connection
):
    async with open_postgres(url, "two", SystemClock()) as other:
        for number in range(5):
            await store.run(keep_many, number, 250)
        await asyncio.gather(*(s.run(discard, n) for n in range(5) for s in (store, other)))
        await emptied(database)
    assert await database.fetchval("SELECT count(*) FROM payloads") == 0


async def test_bytes_that_have_changed_are_damaged(
    store: PostgresStore, database: asyncpg.Connection
):
    await store.run(keep, "a-1", b"data")
    await store.run(keep, "a-2", b"good")
    await database.execute("UPDATE payloads SET data = 'dada' WHERE assignment = 'a-1'")
    assert await store.read(recall, "a-1") is None
    assert await store.run(recall, "a-1") is None
    assert await store.read(recall, "a-2") == b"good"


async def test_large_ones_are_not_held_back(store: PostgresStore):
    def large() -> Steps[list[int]]:
        counts = []
        for number in range(3):
            yield Keep("digits", 1, f"a-{number}", bytes(5 << 20))
            found = yield from rows("SELECT count(*) AS n FROM payloads")
            counts.append(found[0]["n"])
        return counts

    assert await store.run(large) == [0, 2, 2]
    for number in range(3):
        assert await store.read(recall, f"a-{number}") == bytes(5 << 20)


def recall_two(first: str, second: str) -> Steps[list[bytes | None]]:
    return [(yield from recall(first)), (yield from recall(second))]


async def test_a_file_of_the_database_with_a_hole_in_it(own: Server, own_url: str):
    """A page of one update's bytes reads as zeros: that one is gone, and nothing else."""
    text = "SELECT pg_relation_filepath(reltoastrelid) FROM pg_class WHERE relname = 'payloads'"
    async with open_postgres(own_url, "one", SystemClock()) as store:
        for name in ("a-1", "a-2"):
            await store.run(keep, name, name.encode() * 5000)
        path = (await store.read(rows, text.replace(" FROM", " AS path FROM")))[0]["path"]
    await asyncio.to_thread(own.stop)
    await asyncio.to_thread(_erase_first_page, own.data / path)
    await asyncio.to_thread(own.start)
    async with open_postgres(own_url, "one", SystemClock()) as store:
        assert await store.read(recall_two, "a-1", "a-2") == [None, b"a-2" * 5000]
        assert await store.run(recall_two, "a-1", "a-2") == [None, b"a-2" * 5000]


def _erase_first_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(8192))
