"""The round: a pure state machine. Facts and `now` in, decisions out; no loop, file or clock.

Phases, in order:

    selecting   devices that check in are assigned, until so many work as there are places
    reporting   enough devices work; their updates are awaited
    closing     the goal was reached, or the deadline passed with the minimum: nothing counts any
                more; one process makes the new model
    closed      the new model is published
    abandoned   the deadline passed with too few updates, the task was stopped, or no model could
                be made: the model stays as it was

The deadline runs from the first assignment, or from the first late update that counts in it: a
fleet that sleeps makes no empty rounds. Where devices work on from round to round it runs at once.
A device that gives up frees its place. Nothing that arrives, or fails to, moves the deadline.

A round is counts, not names: who holds which assignment is the store's. So each transition is one
row of a table, several processes can share it, and it costs the same for ten devices or a million.

What a late update is to a round is the task's to say:

    refuse   it counts in the round it was made for, or not at all
    fold     it counts in the round that is open when it arrives, with less weight the older the
             model it was made from, down to `max_staleness` versions
    buffer   the same, and rounds do not wait for devices: as many work at any time as there are
             places, whichever round they started in, and every `goal` updates make a model
             (FedBuff, Nguyen et al., 2022)

`now` is in seconds on the store's clock.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from wire.messages import WaitReason


class Phase(StrEnum):
    """Where a round stands."""

    SELECTING = "selecting"
    REPORTING = "reporting"
    CLOSING = "closing"
    CLOSED = "closed"
    ABANDONED = "abandoned"


class Reason(StrEnum):
    """Why a round ended."""

    GOAL = "goal"
    DEADLINE = "deadline"
    TOO_FEW = "too_few"
    STOPPED = "stopped"
    NOT_FINITE = "not_finite"
    NOT_COMBINED = "not_combined"


class Late(StrEnum):
    """What a late update is."""

    REFUSE = "refuse"
    FOLD = "fold"
    BUFFER = "buffer"


class Ending(NamedTuple):
    """How a round ends: the phase it enters and why."""

    phase: Phase
    reason: Reason


class Arrival(StrEnum):
    """What an update that arrives is to the round."""

    COUNTS = "counts"
    DUPLICATE = "duplicate"
    LATE = "late"
    WAIT = "wait"  # it counts in the round that opens once this one is closed


class Held(NamedTuple):
    """An assignment, as far as a round must know it: its state, the round in which it was given,
    and the version of the model that it trains from."""

    state: str
    round: int
    version: int


@dataclass(frozen=True)
class RoundPolicy:
    """The task file's `[round]`; `deadline` in seconds."""

    goal: int
    minimum: int
    deadline: float
    late: Late = Late.REFUSE
    max_staleness: int = 0

    def places(self, over_selection: float) -> int:
        """How many devices are asked, so that the goal is reached though some never answer."""
        return math.ceil(self.goal * over_selection - 1e-9)

    @property
    def patience(self) -> float:
        """For how long after its round's deadline an update may count at most, in seconds."""
        return 0.0 if self.late is Late.REFUSE else self.max_staleness * self.deadline

    @property
    def longest(self) -> float:
        """For how many seconds a device may work at most; then its place is another's. Versions
        alone do not tell: were all places taken by devices that are gone, there would be no more
        of them."""
        return self.deadline + self.patience


@dataclass(frozen=True)
class Round:
    """One round of one task, at one moment.

    `version` is that of the model it starts from; of its `places`, `working` devices are at work;
    `arrived` updates count; `dropped` assignments came to nothing. `ending` is set from the phase
    `closing` on, and `published` at the last.
    """

    number: int
    version: int
    policy: RoundPolicy
    places: int
    opened: float
    working: int = 0
    arrived: int = 0
    dropped: int = 0
    started: float | None = None
    ended: float | None = None
    ending: Ending | None = None
    published: bool = False

    # What is

    @property
    def phase(self) -> Phase:
        """The phase now."""
        if self.ending:
            closing = self.ending.phase is Phase.CLOSED and not self.published
            return Phase.CLOSING if closing else self.ending.phase
        return Phase.SELECTING if self.free > 0 else Phase.REPORTING

    @property
    def over(self) -> bool:
        """Whether it is closed or abandoned: one that is closing is not yet."""
        return self.phase in (Phase.CLOSED, Phase.ABANDONED)

    @property
    def free(self) -> int:
        """Places that no device has."""
        taken = self.working + (0 if self.policy.late is Late.BUFFER else self.arrived)
        return max(0, self.places - taken)

    @property
    def deadline(self) -> float | None:
        """When the round ends whatever happens; `None` before its first assignment."""
        return None if self.started is None else self.started + self.policy.deadline

    def remaining(self, now: float) -> float:
        """Seconds to the deadline."""
        return self.policy.deadline if self.deadline is None else max(0.0, self.deadline - now)

    def time_left(self, given: int, assigned: float, now: float) -> float:
        """For how many seconds the update of an assignment may still count at most: one that was
        `given` in that round, at the moment `assigned`."""
        if self.policy.late is Late.REFUSE:
            return self.remaining(now) if given == self.number else 0.0
        return max(0.0, assigned + self.policy.longest - now)

    # What to do

    def refusal(self, served: bool, now: float) -> WaitReason | None:
        """Why a device gets no place; `None` when it may have one. `served`: it has had one in this
        round already."""
        if served:
            return WaitReason.ALREADY_SERVED
        if self.ending or self.free <= 0 or self.remaining(now) <= 0:
            return WaitReason.ROUND_FULL
        return None

    def arrival(self, held: Held, now: float) -> Arrival:
        """What the update of an assignment would be, were it to arrive `now`."""
        if held.state == "accepted":
            return Arrival.DUPLICATE
        if held.state != "working":
            return Arrival.LATE
        over = self.ending is not None or self.remaining(now) <= 0
        if self.policy.late is Late.REFUSE:
            return Arrival.LATE if over or held.round != self.number else Arrival.COUNTS
        if self.staleness(held) > self.policy.max_staleness:
            return Arrival.LATE
        return Arrival.WAIT if over else Arrival.COUNTS

    def staleness(self, held: Held) -> int:
        """How many versions ago the model of an assignment was the newest."""
        return max(0, self.version - held.version)

    def due(self, now: float) -> Ending | None:
        """How the round must end now; `None` while it goes on."""
        if self.ending:
            return None
        if self.arrived >= self.policy.goal:
            return Ending(Phase.CLOSED, Reason.GOAL)
        if self.started is None or self.remaining(now) > 0:
            return None
        if self.arrived >= self.policy.minimum:
            return Ending(Phase.CLOSED, Reason.DEADLINE)
        return Ending(Phase.ABANDONED, Reason.TOO_FEW)

    # What happens

    def assigned(self, now: float) -> "Round":
        """A device has a place. The first one starts the clock."""
        return replace(self, working=self.working + 1, started=self._started(now))

    def counted(self, held: Held, now: float) -> "Round":
        """An update whose `arrival` was COUNTS is durable."""
        return replace(
            self,
            working=self.working - self._takes_place(held),
            arrived=self.arrived + 1,
            started=self._started(now),
        )

    def left(self, held: Held) -> "Round":
        """A device at work will not deliver: it gave up, or its update was refused for good."""
        takes = self._takes_place(held)
        return replace(self, working=self.working - takes, dropped=self.dropped + takes)

    def forgotten(self, held: Held, counted: bool) -> "Round":
        """A device has left the fleet: as if it had never been in the round, but that the clock
        goes on. `counted`: its update counted in this round."""
        if counted:
            return replace(self, arrived=self.arrived - 1)
        takes = held.state == "working" and self._takes_place(held)
        return replace(self, working=self.working - takes)

    def lost(self, updates: int) -> "Round":
        """The disk no longer has so many updates that had counted."""
        return replace(self, arrived=self.arrived - updates)

    def expired(self, gone: int, failed: int) -> "Round":
        """The round has ended, and with it `gone` assignments can count no more. `failed` of them
        came to nothing; the others had too little time to tell. In the record of a round that takes
        no late ones these stay `working`; else who is at work is still awaited."""
        left = {Late.REFUSE: failed, Late.FOLD: 0, Late.BUFFER: gone}[self.policy.late]
        return replace(self, working=self.working - left, dropped=self.dropped + failed)

    def ends(self, ending: Ending, now: float) -> "Round":
        """Nothing counts from now on."""
        return replace(self, ending=ending, ended=now)

    def following(self, version: int, places: int, now: float) -> "Round":
        """The round after this one, from the newest model. Where devices work on, its clock runs at
        once: else it would never end, should they all be gone and leave no place."""
        carried = self.working if self.policy.late is Late.BUFFER else 0
        started = now if carried else None
        return Round(
            *(self.number + 1, version, self.policy, places, now), working=carried, started=started
        )

    def _started(self, now: float) -> float:
        return now if self.started is None else self.started

    def _takes_place(self, held: Held) -> bool:
        """Whether an assignment has one of this round's places."""
        return held.round == self.number or self.policy.late is Late.BUFFER
