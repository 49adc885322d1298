"""A process of its own over a store: `python -m tests.coordinator.store.postgres.worker URL JOB`.

count KEY N   add one, N times, from 50 tasks at once
tell          tell of something
hang          write and keep without an end, and say so
"""

import asyncio
import sys

from coordinator.store.postgres import PostgresStore, open_postgres
from coordinator.store.sql import Steps, rows
from schedules.clock import SystemClock
from tests.coordinator.store.contract import add_one, keep, tell, write

TASKS = 50


async def count(store: PostgresStore, key: str, times: int) -> None:
    left = iter(range(times))

    async def work() -> None:
        for _ in left:
            await store.run(add_one, key)

    await asyncio.gather(*(work() for _ in range(TASKS)))


def hang() -> Steps[None]:
    yield from write("half", "written")
    yield from keep("a-half", bytes(9 << 20))  # enough to be sent at once
    print("hangs", flush=True)
    yield from rows("SELECT pg_sleep(14)")


async def main(url: str, job: str, *arguments: str) -> None:
    async with open_postgres(url, f"worker {job}", SystemClock()) as store:
        match job:
            case "count":
                await count(store, arguments[0], int(arguments[1]))
            case "tell":
                await store.run(tell)
            case "hang":
                await store.run(hang)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
