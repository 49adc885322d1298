"""The referee: an account of a task's rounds of its own, held against the round's at every step.

It shares no code with `coordinator.round`, but for the names of phases, policies and reasons; nor
with selection. Whether a model is what its updates add up to, the learning knows: see
`fleet.virtual.one_weight`.
"""

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from coordinator.round import Arrival, Ending, Late, Phase, Reason, Round
from fleet.virtual.story import Story
from fleet.virtual.task import VirtualTask
from wire.messages import WaitReason

_STREAK = 3
"""So many assignments in a row must have come to nothing before a device has to rest."""
_PATIENCE = 3.0
"""Intervals between check-ins after which everybody is let in."""
_CHECK_INS_PER_SECOND = 100.0


class _Work(NamedTuple):
    """An assignment at work."""

    device: str
    round: int
    version: int
    since: float


class Referee:
    """What may happen in a task's rounds, and what has happened. Every method raises
    `InvariantBroken`.

    `rivals` are the referees of all tasks of the fleet, this one among them; `busy` is theirs
    together: who works, and on which assignment.
    """

    def __init__(
        self, task: VirtualTask, population: int, rivals: list["Referee"], busy: dict[str, str]
    ) -> None:
        self._task, self._policy = task, task.policy
        self._story = Story(task)
        self._rivals, self._busy = rivals, busy
        rivals.append(self)
        self._everybody = population
        spread = 2 * population / _CHECK_INS_PER_SECOND
        self._interval = max(float(task.schedule.check_in), spread)
        self._working: dict[str, _Work] = {}
        self._unpaid: dict[str, int] = {}  # a device's assignments since one of them counted
        self._ever: set[str] = set()  # assignments given, in any round
        self._ever_counted: set[str] = set()
        self._turned_away = ""  # who was, last
        self._now = 0.0
        self._number, self._version = 0, 0
        self._closed = True
        self.counted: dict[str, str] = {}  # assignment to device

    def watch(self, look: Callable[[], Round]) -> None:
        """Where to look at the round."""
        self._look = look

    def begin(self, found: Round) -> None:
        """A round begins: nothing counts yet, and only where rounds do not wait for devices is
        anybody in it."""
        self._number += 1
        self._round = found
        self._served: set[str] = set()
        self._places = found.places
        self._here = len(self._working) if self._buffers else 0  # places taken by who works
        self._dropped = 0
        self.counted = {}
        self._over = self._closed = False
        self._opened = self._now
        self.started: float | None = self._now if self._here else None
        self.filled: float | None = None
        self.most = 0
        self._tell(f"round {found.number} begins with {found.places} places")
        self._check_places()
        if (found.number, found.version) != (self._number, self._version):
            self._broken(f"round {self._number} of version {self._version} should have begun")
        self._compare(found)

    def step(self, now: float) -> None:
        """Time has come to `now`, and what happened before has been dealt with."""
        self._now = now
        found = self._look()
        if found is not self._round:
            self._compare(found)
        if self._over:
            return
        if self.started is not None and now > self._deadline:
            self._broken(f"it goes on after its deadline, {self._deadline:.3f}")
        if len(self.counted) >= self._policy.goal:
            self._broken("it has its goal and goes on")

    def drained(self) -> None:
        """Nothing is left to happen."""
        if self.started is not None and not self._over:
            self._broken("it was never ended")
        if self._over and self._working:
            self._broken(f"{len(self._working)} work for a task that is over")

    # Places

    def assigned(self, assignment: str, device: str) -> None:
        """A device got a place."""
        self._tell(f"{assignment} to {device}")
        self._open("a place was given")
        if device in self._served:
            self._broken(f"{device} serves twice in it")
        if assignment in self._ever:
            self._broken(f"{assignment} was given before")
        if device in self._busy:
            self._broken(f"{device} works on {self._busy[device]} already")
        if self._full:
            self._broken(f"{self._taken} places were taken when one more was given")
        for rival in self._rivals:
            if rival._goes_before(self) and rival._turned_away != device:
                self._broken(f"{device} was not asked for {rival._task.name}, which waits longer")
        self._take(assignment, device)

    def _take(self, assignment: str, device: str) -> None:
        self._start()
        self._ever.add(assignment)
        self._served.add(device)
        self._busy[device] = assignment
        self._unpaid[device] = self._unpaid.get(device, 0) + 1
        self._working[assignment] = _Work(device, self._number, self._version, self._now)
        self._here += 1
        self.most = max(self.most, self._taken)
        if self.filled is None and self._full:
            self.filled = self._now

    def _goes_before(self, other: "Referee") -> bool:
        return not self._closed and self._opened < other._opened

    def turned_away(self, device: str, reason: WaitReason) -> None:
        """A device asked for a place and got none."""
        self._turned_away = device
        if self._over or self._late:
            return
        served = device in self._served
        match reason:
            case WaitReason.ROUND_FULL:
                just = self._full or served
            case WaitReason.ALREADY_SERVED:
                just = served
            case WaitReason.RESTING:
                just = self._unpaid.get(device, 0) >= _STREAK
            case WaitReason.NOT_SELECTED:
                just = self._may_choose()
            case _:
                just = reason is WaitReason.WINDOW_CLOSED and bool(self._task.schedule.windows)
        if not just:
            self._broken(f"{device} got none of its free places: {reason}")

    def _may_choose(self) -> bool:
        """Whether there are more devices than places, and they were not asked for long. One that
        is too slow may always be left out; one told to wait for a window, somewhat longer."""
        waited = self._now - self._opened
        patient = waited < _PATIENCE * self._interval or bool(self._task.schedule.windows)
        speed = type(self._task.selection).__name__ == "Speed"
        return speed or (self._everybody > self._places and patient)

    def left(self, assignment: str, why: str) -> None:
        """A device's place is free again."""
        self._tell(f"{assignment} left: {why}")
        if assignment not in self._working:
            self._broken(f"{assignment} left a place that it did not have")
        own = self._has_place(self._working[assignment])
        self._free(assignment)
        self._dropped += own

    # Updates

    def passed(self, assignment: str, what: Arrival) -> None:
        """An update came and does not count, or not yet."""
        self._tell(f"{assignment} came: {what}")
        work = self._working.get(assignment)
        if work is None:
            right = {Arrival.DUPLICATE if assignment in self._ever_counted else Arrival.LATE}
        elif not self._may_count(work):
            right = {Arrival.LATE}
        elif self._over or self._late:
            right = {Arrival.LATE if self._policy.late is Late.REFUSE else Arrival.WAIT}
        else:
            right = set()
        if what not in right:
            self._broken(f"{assignment} came in time and for the first time, but is called {what}")

    def count(self, assignment: str, staleness: int) -> None:
        """An update counts."""
        self._tell(f"{assignment} counts, {staleness} versions late")
        self._open("an update counted")
        if assignment in self._ever_counted:
            self._broken(f"{assignment} counts twice")
        work = self._working.get(assignment)
        if work is None:
            self._broken(f"{assignment} counts without a place")
        if not self._may_count(work):
            self._broken(f"{assignment} is of round {work.round} and may not count any more")
        if staleness != self._version - work.version:
            self._broken(f"{assignment} is not {staleness} versions late")
        self._start()
        self._ever_counted.add(assignment)
        self.counted[assignment] = work.device
        self._free(assignment)
        self._unpaid[work.device] = 0
        self.most = max(self.most, self._taken)

    def _may_count(self, work: _Work) -> bool:
        """Whether this round, or the next one of its version, can take it."""
        if self._policy.late is Late.REFUSE:
            return work.round == self._number
        return self._version - work.version <= self._policy.max_staleness

    # The end

    def end(self, ending: Ending) -> None:
        """Nothing counts from here on: the round ends like this."""
        self._tell(f"round {self._number} ends: {ending.phase}, {ending.reason}")
        if self._over:
            self._broken("it ended twice")
        self._over = True
        if ending != self._ending():
            self._broken(f"it ended as {ending.phase} ({ending.reason})")
        self._ended = self._now

    def published(self, wrong: str) -> None:
        """The round has a new model; what is `wrong` with it, or an empty string."""
        if wrong:
            self._broken(wrong)
        if self._now != self._ended + self._task.closing:
            self._broken(f"its model was made at {self._now}")
        self._version += 1

    def expired(self, gone: set[str], last: bool) -> None:
        """The assignments that the round's end leaves in vain."""
        self._tell(f"{len(gone)} assignments expire")
        since = self._ended - self._policy.deadline * (1 + self._policy.max_staleness)
        right = {
            assignment
            for assignment, work in self._working.items()
            if last
            or self._policy.late is Late.REFUSE
            or not self._may_count(work)
            or work.since <= since
        }
        if gone != right:
            self._broken(f"expired: {len(gone)}; should have: {len(right)}")
        for assignment in gone:
            self._free(assignment)
        self._closed = True

    def _ending(self) -> Ending | None:
        """The one right way to end now; `None` when there is none yet."""
        if len(self.counted) >= self._policy.goal:
            return Ending(Phase.CLOSED, Reason.GOAL)
        if self.started is None or self._now != self._deadline:
            return None
        if len(self.counted) >= self._policy.minimum:
            return Ending(Phase.CLOSED, Reason.DEADLINE)
        return Ending(Phase.ABANDONED, Reason.TOO_FEW)

    # Its own account against the round's

    def _compare(self, found: Round) -> None:
        """The round has changed. Once it has ended, what becomes of its counts is of no weight."""
        self._round = found
        if self._over:
            if found.arrived != len(self.counted):
                self._broken(f"{found.arrived} are said to have counted")
            return
        said = (found.working, found.arrived, found.dropped, found.places)
        if said != (self._here, len(self.counted), self._dropped, self._places):
            self._broken(f"its own counts are wrong: {said}")
        if found.started != self.started or found.opened != self._opened:
            self._broken(f"it says that it opened at {found.opened}, started at {found.started}")
        if found.phase is not (Phase.REPORTING if self._full else Phase.SELECTING):
            self._broken(f"its phase is {found.phase}")

    def _check_places(self) -> None:
        """Over-selection is what the task says at first, and then within its limits."""
        task, goal = self._task, self._policy.goal
        most = max(task.over_selection, task.over_selection_limit)
        low, high = (task.over_selection, task.over_selection) if self._number == 1 else (1.0, most)
        if not goal * low - 1e-6 <= self._places < goal * high + 1:
            self._broken(f"it asks {self._places} devices for {goal} updates")

    def _start(self) -> None:
        if self.started is None:
            self.started = self._now

    def _free(self, assignment: str) -> None:
        work = self._working.pop(assignment)
        del self._busy[work.device]
        self._here -= self._has_place(work)

    def _has_place(self, work: _Work) -> bool:
        return self._buffers or work.round == self._number

    @property
    def _buffers(self) -> bool:
        return self._policy.late is Late.BUFFER

    @property
    def _taken(self) -> int:
        return self._here + (0 if self._buffers else len(self.counted))

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
        self._story.tell(self._now, fact)

    def _broken(self, what: str) -> NoReturn:
        state = f"started {self.started}, {self._here} work, {len(self.counted)} counted"
        self._story.broken(self._number, self._now, what, state)
