"""A device leaves the fleet: what it brought and what is known of it goes, whatever is under way.

One transaction forgets it: its identity, its part in every round and its evaluations; the bytes of
what it brought to open rounds are overwritten. What this process has summed of it is taken out of
the sums, exactly, since they are integers. What another process has summed is found at the close:
its sum is then not of the updates that the store means, and those are summed anew.

Nobody sums or hands over a sum meanwhile, so each does so wholly before or wholly after.
"""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from coordinator.bench import Bench
from coordinator.errors import Unavailable
from coordinator.kept import kept_of
from coordinator.services import Services
from coordinator.store import devices
from coordinator.store.records import AssignmentRecord, Withdrawn
from coordinator.task import Task


async def withdraw(services: Services, tasks: Mapping[str, Task], device: str) -> Withdrawn | None:
    """Forget a device, durably. `None` when there is no such device (any more)."""
    terms = {name: task.terms for name, task in tasks.items()}
    async with AsyncExitStack() as still:
        for name in sorted(tasks):
            await still.enter_async_context(tasks[name].summing.still())
        withdrawn = await services.store.run(devices.withdraw, device, terms)
        if withdrawn is None:
            return None
        for row, data in withdrawn.kept:
            if row.node == services.node:
                await _take_out(services, tasks[row.task], row, data)
    for row in withdrawn.assignments:
        await asyncio.to_thread(services.parts.drop, row.id)
        if row.task in tasks:
            tasks[row.task].told.set()
    return withdrawn


async def _take_out(
    services: Services, task: Task, row: AssignmentRecord, data: bytes | None
) -> None:
    """The sum without an update that is in it."""
    assert row.counted is not None
    try:
        if task.round.number == row.counted:
            kept = kept_of(task.round, row, data)
            await services.hand.do(Bench.exclude, task.work, row.counted, kept)
        else:  # as seen here; another process has gone on: how stale it was is not known
            await services.hand.do(Bench.spoil, task.work)
    except Unavailable:
        pass  # then the sum is gone as well
