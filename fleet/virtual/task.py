"""A task of a virtual fleet: what of a task file matters in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.round import Round, RoundPolicy
from coordinator.selection import Selection, Uniform
from schedules.duration import Duration
from schedules.schedule import Schedule

MakeRound = Callable[[int, int, RoundPolicy, int, float], Round]
"""From number, version, policy, places and the time at which it opens."""


def always(check_in: float) -> Schedule:
    """A schedule without windows; `check_in` in seconds."""
    return Schedule(round_deadline=Duration(600.0), check_in=Duration(check_in))


_ANYBODY = Uniform()
_EVERY_MINUTE = always(60.0)


@dataclass(frozen=True, kw_only=True)
class VirtualTask:
    """`rounds` rounds under `policy` (whose deadline holds, not the schedule's).

    `over_selection` is that of the first round and adapts, up to `over_selection_limit`; a late
    update is scaled by (1 + staleness)^-`staleness_exponent`. To make a model takes `closing`
    seconds. `make_round` makes the first round; the others follow from it.
    """

    policy: RoundPolicy
    name: str = "task"
    rounds: int = 1
    over_selection: float = 1.3
    over_selection_limit: float = 3.0
    staleness_exponent: float = 0.5
    selection: Selection = _ANYBODY
    schedule: Schedule = _EVERY_MINUTE
    closing: float = 0.0
    make_round: MakeRound = Round

    def __post_init__(self) -> None:
        if not self.staleness_exponent >= 0:  # NaN neither
            raise ValueError("staleness_exponent: 0 or more")
        if self.rounds < 1 or self.closing < 0:
            raise ValueError("rounds: 1 or more; closing: 0 s or more")
