"""What a simulation leaves behind."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.round import Phase, Reason


@dataclass(frozen=True, kw_only=True)
class PlayedRound:
    """A round that ended. `started` (the first in it) and `ended` in seconds.

    `counted` names the devices whose update counts, in the order of arrival; `stale` says how many
    of these were made from an older model. `asked` is how many places there were, `places` the most
    that were taken at once; `filled` the moment at which none was free for the first time, `None`
    if there always was one. The others are counts: updates made for this round that came when they
    could not count any more, copies of what counts (whenever they came), updates refused for what
    they hold, and devices that gave up in time.
    """

    task: str
    number: int
    phase: Phase
    reason: Reason
    started: float
    ended: float
    filled: float | None
    counted: tuple[str, ...]
    stale: int
    asked: int
    places: int
    late: int
    duplicates: int
    refused: int
    given_up: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """A simulation that ended at `seconds`, after so many `events`. `rounds` are in the order in
    which they ended. `check_ins` counts them by the second in which they arrived; seconds without
    one are left out. `complete` says that nothing was left to happen."""

    rounds: tuple[PlayedRound, ...]
    check_ins: Mapping[int, int]
    seconds: float
    events: int
    complete: bool

    def busiest(self, since: float = 0.0) -> int:
        """The most check-ins of one second, from `since` on."""
        return max((n for second, n in self.check_ins.items() if second >= since), default=0)

    def rate(self, since: float, until: float) -> float:
        """Check-ins per second, on average, in the whole seconds from `since` to `until`."""
        told = sum(n for second, n in self.check_ins.items() if since <= second < until)
        return told / (until - since)


@dataclass
class Tally:
    """What is counted while a round runs, and after."""

    late: int = 0
    duplicates: int = 0
    refused: int = 0
    given_up: int = 0


@dataclass(kw_only=True)
class Ended:
    """A round that ended, while its tally still grows."""

    task: str
    number: int
    phase: Phase
    reason: Reason
    started: float
    ended: float
    filled: float | None
    counted: tuple[str, ...]
    stale: int
    asked: int
    places: int
    tally: Tally = field(default_factory=Tally)

    def played(self) -> PlayedRound:
        """The round for the record."""
        own = {name: value for name, value in vars(self).items() if name != "tally"}
        return PlayedRound(**own, **vars(self.tally))
