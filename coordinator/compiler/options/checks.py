"""What no single key of `[optimizer]` shows: values that contradict each other."""

from coordinator.compiler.options import numbers
from coordinator.compiler.options.optimizers import Optimizer, Sgd
from wire.rates import Cosine, Linear, RateSchedule


def problems(optimizer: Optimizer, rounds: int) -> list[str]:
    """What is wrong with `[optimizer]`; `rounds` are the task's, 0 for no end."""
    found = numbers.problems("optimizer", optimizer)
    if isinstance(optimizer, Sgd) and optimizer.nesterov and not optimizer.momentum:
        found.append("optimizer.nesterov: needs an optimizer.momentum above 0")
    if optimizer.schedule is not None:
        found += numbers.problems("optimizer.schedule", optimizer.schedule)
        found += _schedule_problems(optimizer.schedule, rounds)
    return found


def _schedule_problems(schedule: RateSchedule, rounds: int) -> list[str]:
    warmup = schedule.warmup
    length = schedule.length if isinstance(schedule, Cosine | Linear) else None
    if schedule.over == "rounds":
        if rounds and warmup >= rounds:
            return [
                f"optimizer.schedule.warmup = {warmup}: below round.rounds ({rounds}), or the "
                "rate never becomes the whole one"
            ]
        if isinstance(schedule, Cosine | Linear) and length is None and not rounds:
            return [
                "optimizer.schedule.length: needed, since round.rounds = 0 says no end: the rounds "
                "until the rate has come down"
            ]
    if length is not None and warmup >= length:
        return [f"optimizer.schedule.warmup = {warmup}: below optimizer.schedule.length ({length})"]
    return []
