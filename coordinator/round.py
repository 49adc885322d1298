"""The round: a pure state machine. Facts and `now` in, decisions out; no loop, file or clock.

Phases, in order:

    selecting   devices that check in are assigned, until over_selection x goal of them work
    reporting   enough devices work; their updates are awaited
    closed      the goal was reached, or the deadline passed with the minimum: a new model
    abandoned   the deadline passed with too few updates, or the task was stopped: same model

The deadline runs from the first assignment: a fleet that sleeps makes no empty rounds. A device
that gives up frees its place. Nothing that arrives, or fails to, moves the deadline.

`now` is in seconds on the monotonic clock of the caller.
"""

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from wire.messages import WaitReason


class Phase(StrEnum):
    """Where a round stands."""

    SELECTING = "selecting"
    REPORTING = "reporting"
    CLOSED = "closed"
    ABANDONED = "abandoned"


class Reason(StrEnum):
    """Why a round ended."""

    GOAL = "goal"
    DEADLINE = "deadline"
    TOO_FEW = "too_few"
    STOPPED = "stopped"
    NOT_FINITE = "not_finite"


class Ending(NamedTuple):
    """How a round ends: its last phase and why."""

    phase: Phase
    reason: Reason


class Arrival(StrEnum):
    """What an update that arrives is to the round."""

    COUNTS = "counts"
    DUPLICATE = "duplicate"
    LATE = "late"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class RoundPolicy:
    """The task file's `[round]`; `deadline` in seconds."""

    goal: int
    minimum: int
    deadline: float
    over_selection: float

    @property
    def places(self) -> int:
        """How many devices are asked, so that the goal is reached though some never answer."""
        return math.ceil(self.goal * self.over_selection - 1e-9)


@dataclass
class Round:
    """One round of one task. `working`, `arrived` and `left` map assignment ids to devices."""

    number: int
    policy: RoundPolicy
    started: float | None = None
    ending: Ending | None = None
    working: dict[str, str] = field(default_factory=dict)
    arrived: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    _served: dict[str, str] = field(default_factory=dict)  # device to assignment

    def restore(self, assignment: str, device: str, state: str) -> None:
        """Put back what the journal says of an assignment: `working`, `accepted`, or left."""
        places = {"working": self.working, "accepted": self.arrived}.get(state, self.left)
        places[assignment] = device
        self._served[device] = assignment

    @property
    def phase(self) -> Phase:
        """The phase now."""
        if self.ending:
            return self.ending.phase
        return Phase.SELECTING if self._free_places > 0 else Phase.REPORTING

    @property
    def deadline(self) -> float | None:
        """When the round closes whatever happens; `None` before its first assignment."""
        return None if self.started is None else self.started + self.policy.deadline

    @property
    def _free_places(self) -> int:
        return self.policy.places - len(self.working) - len(self.arrived)

    def remaining(self, now: float) -> float:
        """Seconds to the deadline."""
        return self.policy.deadline if self.deadline is None else max(0.0, self.deadline - now)

    def held_by(self, device: str) -> str | None:
        """The assignment that `device` works on, if any."""
        assignment = self._served.get(device)
        return assignment if assignment in self.working else None

    def device_of(self, assignment: str) -> str | None:
        """Whose assignment it is; `None` when it is not of this round."""
        for held in (self.working, self.arrived, self.left):
            if assignment in held:
                return held[assignment]
        return None

    def refusal(self, device: str, now: float) -> WaitReason | None:
        """Why `device` gets no place in this round; `None` when it may have one."""
        if device in self._served:
            return WaitReason.ALREADY_SERVED
        if self.ending or self._free_places <= 0 or self.remaining(now) <= 0:
            return WaitReason.ROUND_FULL
        return None

    def assign(self, assignment: str, device: str, now: float) -> None:
        """Give `device` a place. The first one starts the clock."""
        if self.started is None:
            self.started = now
        self.restore(assignment, device, "working")

    def arrival(self, assignment: str, now: float) -> Arrival:
        """What an update for `assignment` would be, were it to arrive `now`."""
        if assignment in self.arrived:
            return Arrival.DUPLICATE
        if assignment not in self.working:
            return Arrival.LATE if assignment in self.left else Arrival.UNKNOWN
        if self.ending or self.remaining(now) <= 0:
            return Arrival.LATE
        return Arrival.COUNTS

    def count(self, assignment: str) -> None:
        """An update whose `arrival` was COUNTS is now durable."""
        self.arrived[assignment] = self.working.pop(assignment)

    def leave(self, assignment: str) -> bool:
        """The device gave up, or its update was refused for good. False when it held no place, or
        the round has ended."""
        if self.ending or assignment not in self.working:
            return False
        device = self.working.pop(assignment)
        self.left[assignment] = device
        return True

    def forget(self, device: str) -> None:
        """The device has left the fleet: as if it had never been in the round, but that the clock
        goes on. Its place is free again."""
        self._served.pop(device, None)
        for places in (self.working, self.arrived, self.left):
            for assignment in [a for a, holder in places.items() if holder == device]:
                del places[assignment]

    def lose(self, assignment: str) -> None:
        """The disk no longer has an update that had arrived: it does not count."""
        self.left[assignment] = self.arrived.pop(assignment)

    def due(self, now: float) -> Ending | None:
        """How the round must end now; `None` while it goes on."""
        if self.ending:
            return None
        if len(self.arrived) >= self.policy.goal:
            return Ending(Phase.CLOSED, Reason.GOAL)
        if self.started is None or self.remaining(now) > 0:
            return None
        if len(self.arrived) >= self.policy.minimum:
            return Ending(Phase.CLOSED, Reason.DEADLINE)
        return Ending(Phase.ABANDONED, Reason.TOO_FEW)

    def end(self, ending: Ending) -> None:
        """End the round."""
        self.ending = ending
