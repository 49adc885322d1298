"""A task's learning-rate schedule as its plan has it."""

import msgspec

from coordinator.taskfile import TaskFile
from wire.rates import Cosine, Linear, RateSchedule


def schedule_of(task: TaskFile) -> RateSchedule | None:
    """The schedule, its length written out where the task says it elsewhere; None when the rate
    stays as it is."""
    schedule = task.optimizer.schedule
    if not isinstance(schedule, Cosine | Linear) or schedule.over == "steps":
        return schedule
    length = task.round.rounds if schedule.length is None else schedule.length
    return msgspec.structs.replace(schedule, length=length)
