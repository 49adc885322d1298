"""A device leaves the fleet: what it brought and what is known of it goes, whatever is under way.

All tasks stand still for it, so that it comes either before or after each of these: an assignment,
the acceptance of an update, the end of a round. What comes after finds no device and is refused.
In this order, and what a crash leaves behind:

1. Sums without the device are made; before the journal forgets it, nothing has happened.
2. One transaction forgets it. From here on it has left: a restart knows nothing of it.
3. Rounds and sums in memory follow.
4. Its uploads are deleted, each after the request that writes to it has let go; a restart deletes
   every file that belongs to no assignment.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack

from coordinator.ledger import Recount, Services
from coordinator.running import RunningTask
from coordinator.store.records import Withdrawn


async def withdraw(services: Services, tasks: Sequence[RunningTask], device: str) -> Withdrawn:
    """Steps 1 to 3. `tasks` are all there are, and no other is created meanwhile."""

    def journal() -> tuple[Withdrawn, list[Recount | None]]:
        recounts = [task.recount_without(device) for task in tasks]
        lost = {a: why for found in recounts if found for a, why in found.lost.items()}
        return services.database.withdraw(device, lost), recounts

    async with AsyncExitStack() as still:
        for task in tasks:
            await still.enter_async_context(task.still())
        withdrawn, recounts = await services.worker.call(journal)
        for task, recount in zip(tasks, recounts, strict=True):
            task.forget(device, recount)
    return withdrawn


async def sweep(tasks: Sequence[RunningTask], withdrawn: Withdrawn) -> None:
    """Step 4."""
    for task in tasks:
        await task.sweep(withdrawn.assignments.get(task.name, []))
