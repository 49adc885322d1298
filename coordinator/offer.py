"""What a device that checks in is told: which tasks it may serve, whether one has work for it, and
when to come back if none has. Pure decisions, from what is known."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from coordinator.round import Round
from coordinator.selection import Crowd, Selection, Standing, admits, rests_until
from schedules.pacing import CHECK_INS_PER_SECOND, retry_window
from schedules.schedule import Schedule
from wire.messages import CheckIn, Wait, WaitReason

_INTERVALS = 5
"""So many intervals of selection fit into a deadline; everybody is admitted after three."""
_IDLE_CHECK_IN = 300.0
"""The usual seconds between check-ins of a device that has no task at all."""


class Refusal(NamedTuple):
    """Why a task has no work for a device now, and for how many seconds surely not."""

    reason: WaitReason
    wait: float = 0.0


class Candidate(NamedTuple):
    """A device that asks for work of a task. `served` is the last round in which it had a place."""

    device: str
    standing: Standing
    served: int


class Offered(NamedTuple):
    """The round of a task, when it takes devices, and how it chooses among them."""

    task: str
    round: Round
    selection: Selection
    schedule: Schedule
    crowd: Crowd


def may_serve(
    message: CheckIn, labels: Mapping[str, str], task: str, asked: Mapping[str, str]
) -> bool:
    """Whether a device of these `labels` wants to take part in a task, and has those that are
    `asked` of it."""
    wanted = message.tasks is None or task in message.tasks
    return wanted and task not in message.without and asked.items() <= labels.items()


def refusal(
    candidate: Candidate, offered: Offered, now: float, local: datetime, joined: float
) -> Refusal | None:
    """Why the round has no place for a device; `None` when it is to have one.

    `now` is on the store's clock, `local` the same moment on the coordinator's wall; `joined` since
    when the round could be joined: it was open, and the schedule's window, too.
    """
    schedule, found = offered.schedule, offered.round
    if not schedule.open_at(local):
        return Refusal(WaitReason.WINDOW_CLOSED, schedule.seconds_to_opening(local))
    if (until := rests_until(candidate.standing)) is not None and until > now:
        return Refusal(WaitReason.RESTING, until - now)
    if why := found.refusal(candidate.served == found.number, now):
        return Refusal(why)
    admitted = admits(
        offered.selection,
        device=candidate.device,
        task=offered.task,
        round_number=found.number,
        standing=candidate.standing,
        crowd=offered.crowd,
        places=found.places,
        waited=max(0.0, now - joined),
        interval=_interval(offered),
        remaining=found.remaining(now),
        begun=found.started is not None,
    )
    return None if admitted else Refusal(WaitReason.NOT_SELECTED)


def _interval(offered: Offered) -> float:
    """Seconds between two check-ins of a device, as far as selection is to reckon with them."""
    # A large fleet checks in less often than the schedule says: see `retry_window`.
    spread = 2 * offered.crowd.population / CHECK_INS_PER_SECOND
    # Places must fill while there is time to train: else a round whose population is thought too
    # large, or that checks in less often than rounds end, closes with too few again and again.
    most = offered.round.policy.deadline / _INTERVALS
    return min(max(float(offered.schedule.check_in), spread), most)


def come_back(refusals: Iterable[tuple[Refusal, float]], population: int, now: float) -> Wait:
    """When a device without work is to check in again: as soon as the first of its tasks may have
    some. Each refusal comes with its task's usual seconds between check-ins; `population` devices
    are expected; `now` is on the store's clock."""
    said = list(refusals)
    windows = [
        (retry_window(why.wait, check_in, population, now), why.reason)
        for why, check_in in said
        if why.reason is not WaitReason.TASK_DONE
    ]
    nothing = WaitReason.TASK_DONE if said else WaitReason.NO_TASK
    idle = (retry_window(0.0, _IDLE_CHECK_IN, population, now), nothing)
    window, reason = min(windows, default=idle)
    return Wait(reason=reason, after=window.after, before=window.before)
