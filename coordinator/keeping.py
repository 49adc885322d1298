"""What the keeper of a task's rounds does next: a pure decision, from the round as last seen, from
what this process has done for it, and from the time."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from coordinator.round import Phase, Round
from schedules.backoff import Backoff

LOOK_SECONDS = 5.0  # at the longest, to find what nobody told of
_CLOSING_SECONDS = 1.0  # the same while another process closes the round
_AGAIN = Backoff(first=1.0, limit=60.0)  # where this process could not close a round


class Act(StrEnum):
    """One thing that a keeper does."""

    END = "end"  # the round is due: from then on nothing counts
    TAKE_OVER = "take_over"  # close it, should the process that closes it be no more
    HAND_OVER = "hand_over"  # this process's sum, for the one that closes
    ADOPT = "adopt"  # sum updates that a process which is no more has summed


class Step(NamedTuple):
    """Do `acts`, in order, up to the first that changes something; if none does, wait until the
    moment `until`, on the store's clock, or until something is told."""

    acts: tuple[Act, ...]
    until: float

    def seconds(self, now: float) -> float:
        """How long that is from `now`; never long, should the clock be put back."""
        return min(max(0.0, self.until - now), LOOK_SECONDS)


@dataclass(frozen=True)
class Own:
    """What this process has done: `handed` is the round whose sum it handed over last; `failures`
    in a row to close one, for which it tries `not_before` a moment on the monotonic clock."""

    handed: int = 0
    failures: int = 0
    not_before: float = -math.inf

    def handed_over(self, number: int) -> "Own":
        """The closer of a round has what it may have from here."""
        return replace(self, handed=number)

    def closed(self) -> "Own":
        """A round was closed here, or another process had."""
        return replace(self, failures=0)

    def failed(self, clock: float) -> "Own":
        """A round could not be closed here, at the moment `clock` on the monotonic clock."""
        failures = self.failures + 1
        wait = _AGAIN.delay(failures, 1.0)
        return replace(self, failures=failures, not_before=clock + wait)


def next_step(found: Round, own: Own, streams: bool, now: float, clock: float) -> Step:
    """What to do about a round. `streams`: its updates are summed as they come. `now` is on the
    store's clock, `clock` the same moment on the monotonic one."""
    if found.phase is Phase.CLOSING:
        acts = []
        if clock >= own.not_before:
            acts.append(Act.TAKE_OVER)
        if own.handed != found.number:
            acts.append(Act.HAND_OVER)
        return Step(tuple(acts), now + _CLOSING_SECONDS)
    if found.due(now):
        return Step((Act.END,), now)
    until = now + LOOK_SECONDS if found.deadline is None else found.deadline
    return Step((Act.ADOPT,) if streams and found.arrived else (), until)
