"""The referee: an account of the round of its own, held against the round's at every step.

It shares no code with `coordinator.round`, but for the names of phases and reasons.
"""

from collections import deque
from typing import NoReturn

import numpy as np

from coordinator.round import Ending, Phase, Reason, Round, RoundPolicy

_STORY = 30  # facts that are remembered


class InvariantBroken(AssertionError):
    """The round did what it must not. The text is what, and the facts that led there."""


class Referee:
    """What may happen in a round, and what has happened. Every method raises `InvariantBroken`."""

    def __init__(self, policy: RoundPolicy) -> None:
        self._policy = policy
        self._places = policy.goal * policy.over_selection - 1e-9  # one more when fewer are taken
        self._story: deque[tuple[float, str]] = deque(maxlen=_STORY)
        self._ever: set[str] = set()  # assignments given, in any round
        self._now = 0.0
        self.counted: dict[str, str] = {}  # assignment to device, as are the others

    def begin(self, round_: Round) -> None:
        """A round begins: nobody is in it."""
        self._round = round_
        self._served: set[str] = set()
        self._working: dict[str, str] = {}
        self.counted = {}
        self._sum, self._weight = 0, 0
        self._over = False
        self.started: float | None = None
        self.filled: float | None = None
        self.most = 0
        self._tell(f"round {round_.number} begins")

    def step(self, now: float) -> None:
        """Time has come to `now`, and what happened before has been dealt with."""
        self._now = now
        if self._over:
            return
        if len(self.counted) >= self._policy.goal:
            self._broken("it has its goal and goes on")
        if self.started is not None and now > self._deadline:
            self._broken(f"it goes on after its deadline, {self._deadline:.3f}")
        if (len(self._round.working), len(self._round.arrived)) != (
            len(self._working),
            len(self.counted),
        ):
            self._broken("its own count of devices is wrong")
        if self._round.phase is not (Phase.REPORTING if self._full else Phase.SELECTING):
            self._broken(f"its phase is {self._round.phase}")

    def drained(self) -> None:
        """Nothing is left to happen."""
        if self.started is not None and not self._over:
            self._broken("it was never ended")

    def assigned(self, assignment: str, device: str) -> None:
        """A device got a place."""
        self._tell(f"{assignment} to {device}")
        self._open("a place was given")
        if device in self._served:
            self._broken(f"{device} serves twice in it")
        if assignment in self._ever:
            self._broken(f"{assignment} was given before")
        if self._full:
            self._broken(f"{self._taken} places were taken when one more was given")
        if self.started is None:
            self.started = self._now
        self._ever.add(assignment)
        self._served.add(device)
        self._working[assignment] = device
        self.most = max(self.most, self._taken)
        if self.filled is None and self._full:
            self.filled = self._now

    def turned_away(self, device: str) -> None:
        """A device asked for a place and got none."""
        if not (self._over or self._full or device in self._served or self._late):
            self._broken(f"{device} got none of its free places")

    def left(self, assignment: str, why: str) -> None:
        """A device's place is free again."""
        self._tell(f"{assignment} left: {why}")
        if self._working.pop(assignment, None) is None:
            self._broken(f"{assignment} left a place that it did not have")

    def passed(self, assignment: str, what: str) -> None:
        """An update came and does not count."""
        self._tell(f"{assignment} came: {what}")
        if assignment in self._working and not self._over and not self._late:
            self._broken(f"{assignment} came in time and for the first time, but is called {what}")

    def count(self, assignment: str, value: int, examples: int) -> None:
        """An update counts: `value`, weighted by `examples`."""
        self._tell(f"{assignment} counts")
        self._open("an update counted")
        if assignment in self.counted:
            self._broken(f"{assignment} counts twice")
        if assignment not in self._working:
            self._broken(f"{assignment} counts without a place in it")
        self.counted[assignment] = self._working.pop(assignment)
        self._sum += value * examples
        self._weight += examples

    def end(self, ending: Ending) -> None:
        """The round ends like this."""
        self._tell(f"round {self._round.number} ends: {ending.phase}, {ending.reason}")
        if self._over:
            self._broken("it ended twice")
        self._over = True
        if ending != self._ending():
            self._broken(f"it ended as {ending.phase} ({ending.reason})")
        if self._round.arrived != self.counted:
            self._broken("what it says counted is not what did")

    def mean(self, value: np.float32) -> None:
        """The round's new model, which was 0 before, is `value`."""
        if value != np.float32(self._sum / self._weight):
            self._broken(f"its mean is {value}, not {self._sum} / {self._weight}")

    def _ending(self) -> Ending | None:
        """The one right way to end now; `None` when there is none yet."""
        if len(self.counted) >= self._policy.goal:
            return Ending(Phase.CLOSED, Reason.GOAL)
        if self.started is None or self._now != self._deadline:
            return None
        if len(self.counted) >= self._policy.minimum:
            return Ending(Phase.CLOSED, Reason.DEADLINE)
        return Ending(Phase.ABANDONED, Reason.TOO_FEW)

    @property
    def _taken(self) -> int:
        return len(self._working) + len(self.counted)

    @property
    def _full(self) -> bool:
        return self._taken >= self._places

    @property
    def _late(self) -> bool:
        return self.started is not None and self._now >= self._deadline

    @property
    def _deadline(self) -> float:
        assert self.started is not None
        return self.started + self._policy.deadline

    def _open(self, what: str) -> None:
        if self._over or self._late:
            self._broken(f"{what} after the end")

    def _tell(self, fact: str) -> None:
        self._story.append((self._now, fact))

    def _broken(self, what: str) -> NoReturn:
        head = (
            f"round {self._round.number} at {self._now:.3f} s: {what}",
            f"policy: {self._policy}",
            f"started {self.started}, {len(self._working)} work, {len(self.counted)} counted;"
            f" the last {len(self._story)} facts:",
        )
        raise InvariantBroken("\n".join([*head, *(f"{t:12.3f}  {f}" for t, f in self._story)]))
