"""Looking, now and then, at the devices that may take part in each task."""

import asyncio
from collections.abc import Mapping

from coordinator.store import crowds
from coordinator.store.sql import Store
from coordinator.task import Task
from coordinator.trying import Trying
from schedules.schedule import Schedule

_LOOK_SECONDS = 30.0
_A_DAY = 26 * 3600.0
_AWAKE_SECONDS = 900.0


async def keep_looking(store: Store, tasks: Mapping[str, Task]) -> None:
    """Until cancelled."""
    trying = Trying("the devices of tasks are not counted")
    while True:
        async with trying:
            for task in [task for task in tasks.values() if task.running]:
                await look(store, task)
        await asyncio.sleep(_LOOK_SECONDS)


async def look(store: Store, task: Task) -> None:
    """How many they are, and how they stand, from now on. Raises `StoreUnavailable`."""
    now, labels = store.now(), task.file.participants.labels
    since = now - _awake_seconds(task.timing)
    task.crowd = await store.read(crowds.crowd, task.name, labels, since, now)


def _awake_seconds(schedule: Schedule) -> float:
    """Who was not seen for so long is not reckoned with: places are not kept for it."""
    if schedule.windows:
        return _A_DAY
    return max(_AWAKE_SECONDS, 4 * float(schedule.check_in))
