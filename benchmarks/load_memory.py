"""The coordinator's resident memory as rounds grow: that of the model, not of the updates."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.load_fleet import Budget, Fleet, Say, create_task, ended_round, parameters_of
from benchmarks.loopback import Failed, Processes, coordinator
from benchmarks.report import Row, Section
from fleet.swarm import Swarm

GOAL = 1.10
SIZES = (100, 1_000, 10_000, 100_000)

_SAMPLE_SECONDS = 0.05
_SETTLE_SECONDS = 2.0
_CHUNK = 5000
_MB = 1e6


@dataclass
class Memory:
    """Resident memory of a process in MB: at its most while a round ran, and after it."""

    peak: float = 0.0
    after: float = 0.0


async def measure(work: Path, plan: Path, quick: bool, say: Say, section: Section) -> None:
    """Add the rows to `section`."""
    budget = Budget(40.0 if quick else 2400.0)
    sizes = SIZES[:-1] if quick else SIZES
    async with (
        Processes(work / "logs") as processes,
        coordinator(work, processes) as (client, pid),
        Swarm(client.url) as swarm,
    ):
        server = psutil.Process(pid)
        fleet = Fleet(client, swarm, await asyncio.to_thread(parameters_of, plan))
        section.rows.append(await _enrol(fleet, server, sizes[-1], budget, say))
        # Threads and buffers that come with the first updates are not what grows with a round.
        await _round(fleet, server, plan, "load-warm-up", sizes[0], budget, say)
        first: Memory | None = None
        for size in sizes:
            what = f"resident memory, MB: {size:,} updates a round"
            try:
                found = await _round(fleet, server, plan, f"load-{size}", size, budget, say)
            except Failed as error:
                section.missing(what, str(error))
                continue
            first = first or found
            section.rows.append(row(what, found, first))


async def _enrol(fleet: Fleet, server: psutil.Process, count: int, budget: Budget, say: Say) -> Row:
    """All devices before the first round, so that rounds differ in their updates alone."""
    before = _resident(server)
    took = await fleet.grow(count, budget.left / 3, lambda text: say(f"memory: {text}"))
    await asyncio.sleep(_SETTLE_SECONDS)
    after, there = _resident(server), len(fleet.secrets)
    return Row(
        f"resident memory, MB: {there:,} devices enrolled, no round yet",
        f"{after:.1f}",
        f"{before:.1f} with none: {(after - before) * 1e3 / max(there, 1):.2f} kB a device; "
        f"{there / took:,.0f} enrolled a second",
    )


async def _round(
    fleet: Fleet,
    server: psutil.Process,
    plan: Path,
    task: str,
    size: int,
    budget: Budget,
    say: Say,
) -> Memory:
    """One round of so many updates. Raises `Failed`."""
    if len(fleet.secrets) < size:
        raise Failed(f"only {len(fleet.secrets):,} devices could be enrolled in the time for it")
    await create_task(fleet.client, plan, task, size, size, 86400.0)
    async with _watching(server) as memory:
        say(f"memory: {size:,} check-ins")
        places = await fleet.take(task, fleet.secrets[:size], budget.left)
        for start in range(0, size, _CHUNK):
            say(f"memory: {start:,} of {size:,} updates")
            await fleet.upload(places[start : start + _CHUNK], budget.left)
        record = await ended_round(fleet.client, task, budget.left)
    if (record.updates, record.reason) != (size, "goal"):
        raise Failed(f"the round ended by its {record.reason} with {record.updates:,} updates")
    await asyncio.sleep(_SETTLE_SECONDS)
    memory.after = _resident(server)
    memory.peak = max(memory.peak, memory.after)
    return memory


@asynccontextmanager
async def _watching(server: psutil.Process) -> AsyncIterator[Memory]:
    """The peak of a process, looked at all the time."""
    memory = Memory()

    async def watch() -> None:
        while True:
            memory.peak = max(memory.peak, _resident(server))
            await asyncio.sleep(_SAMPLE_SECONDS)

    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(watch())
            try:
                yield memory
            finally:
                watching.cancel()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


def row(what: str, found: Memory, first: Memory) -> Row:
    """What it comes to, against the memory of the smallest round."""
    peak, after = found.peak / first.peak, found.after / first.after
    return Row(
        what,
        f"{found.after:.1f} after it, {found.peak:.1f} at its peak",
        f"{after:.2f} and {peak:.2f} of those of {SIZES[0]} updates",
        f"<= {GOAL:.2f}",
        max(peak, after) <= GOAL,
    )


def _resident(process: psutil.Process) -> float:
    return process.memory_info().rss / _MB
