"""Several processes over one database."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from coordinator.store.postgres import PostgresStore
from coordinator.store.sql import recall
from tests.coordinator.store.contract import SOON, hears, lookup, write
from tests.coordinator.store.postgres.worker import count

MODULE = "tests.coordinator.store.postgres.worker"


@asynccontextmanager
async def worker(url: str, *job: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", MODULE, url, *job, stdout=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_two_processes_count_exactly(url: str, store: PostgresStore):
    await store.run(write, "count", "0")
    async with worker(url, "count", "count", "200") as process:
        await count(store, "count", 200)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert await store.read(lookup, "count") == "400"


async def test_what_another_process_tells_is_heard(url: str, store: PostgresStore):
    hearing = asyncio.ensure_future(hears(store, 4 * SOON))
    async with worker(url, "tell") as process:
        assert await hearing
        assert await process.wait() == 0


async def test_a_process_killed_in_mid_transaction_leaves_nothing(url: str, store: PostgresStore):
    async with worker(url, "hang") as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"hangs\n"
        process.kill()
        await process.wait()
    # The server notices at the next word that it has for the dead; the lock goes with it.
    async with asyncio.timeout(30):
        await store.run(write, "half", "ours")
    assert await store.read(lookup, "half") == "ours"
    assert await store.read(recall, "a-half") is None
