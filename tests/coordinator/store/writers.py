"""A process that writes to a store until it is killed or told to stop, and says what was answered:
`python -m tests.coordinator.store.writers STATE NODE MODE FIRST`. Each update's bytes follow from
its name, and each transaction also writes a row: one without the other would be a half one.
"""

import asyncio
import hashlib
import os
import sys
from pathlib import Path

from coordinator.store.sql import Keep, Steps, one, rows
from coordinator.store.sqlite import SqliteStore, open_sqlite
from schedules.clock import SystemClock

CALLERS = 24
SECONDS = 2.0  # of counting


def payload(assignment: str) -> bytes:
    """The bytes of an update, by its name."""
    seed = hashlib.sha256(assignment.encode()).digest()
    return seed * (1 + seed[0] * 3)


def accept(assignment: str, node: str) -> Steps[None]:
    yield from rows("INSERT INTO meta VALUES ($1, $2)", assignment, "before")
    yield Keep("digits", 1, assignment, payload(assignment))
    yield from rows("UPDATE meta SET value = $2 WHERE key = $1", assignment, "after")


def count() -> Steps[None]:
    row = yield from one("SELECT value FROM meta WHERE key = 'count'")
    assert row is not None
    value = str(int(row["value"]) + 1)
    yield from rows("UPDATE meta SET value = $1 WHERE key = 'count'", value)


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")  # one write: a kill leaves no half line


async def accepting(store: SqliteStore, node: str, first: int) -> None:
    numbers = iter(range(first, sys.maxsize))

    async def caller() -> None:
        for number in numbers:
            assignment = f"{node}-{number}"
            await store.run(accept, assignment, node)
            say(assignment)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def counting(store: SqliteStore) -> None:
    loop = asyncio.get_running_loop()
    end, done, longest = loop.time() + SECONDS, 0, 0.0

    async def caller() -> None:
        nonlocal done, longest
        while (start := loop.time()) < end:
            await store.run(count)
            done += 1
            longest = max(longest, loop.time() - start)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    say(f"{done} {longest}")


async def main(state: str, node: str, mode: str, first: str) -> None:
    shared = node != "alone"
    async with open_sqlite(Path(state), node, SystemClock(), shared=shared) as store:
        say("ready")
        sys.stdin.readline()  # all begin together
        if mode == "count":
            await counting(store)
        else:
            await accepting(store, node, int(first))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
