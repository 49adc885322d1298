"""What a simulation counts, from one version to the next."""

from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.round import Phase, Round
from fleet.simulation.result import Learnt

MOST_FAILURES = 50
"""Rounds in a row without a model: the fleet cannot go on."""


@dataclass
class Account:
    """`plan_bytes` are those of the plan, which each device fetches once. `published` hears of
    each round that made a version, `stuck` of too many that made none."""

    plan_bytes: int
    published: Callable[[Round, "Account", float], None]
    stuck: Callable[[], None]
    upload: int = 0
    download: int = 0
    asked: int = 0
    late: int = 0
    dropped: int = 0
    failed_rounds: int = 0
    losses: dict[int, float] = field(default_factory=dict)
    watched: dict[int, Learnt] = field(default_factory=dict)
    _has: dict[int, int] = field(default_factory=dict)  # the version that a device fetched last
    _given: int = 0

    def gave(self, assignment: str) -> None:
        """A device was told an assignment, perhaps once more. They are numbered."""
        number = int(assignment.rpartition("-")[2])
        self.asked += number > self._given
        self._given = max(self._given, number)

    def fetched(self, device: int, version: int, size: int) -> None:
        """A device has what it trains from."""
        if device not in self._has:
            self.download += self.plan_bytes
        if self._has.get(device) != version:
            self.download += size
        self._has[device] = version

    def ended(self, found: Round, now: float) -> None:
        """A round is over."""
        self.dropped += found.dropped
        if found.phase is not Phase.CLOSED:
            self.failed_rounds += 1
            self.losses, self.watched = {}, {}
            if self.failed_rounds >= MOST_FAILURES:
                self.stuck()
            return
        self.published(found, self, now)
        self.asked = self.late = self.dropped = self.failed_rounds = 0
        self.losses, self.watched = {}, {}
