"""One task's rounds: what `coordinator.keeper` and `coordinator.intake` do, with no I/O."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from coordinator.aggregation import Contribution
from coordinator.offer import Offered, Refusal, refusal
from coordinator.round import Arrival, Ending, Phase, Reason
from edge_agent.errors import Rejected
from fleet.virtual.book import Book, VirtualAssignment
from fleet.virtual.learning import Learning, Update
from fleet.virtual.record import Ended, Tally
from fleet.virtual.referee import Referee
from fleet.virtual.task import VirtualTask
from fleet.virtual.timeline import Timeline
from wire.errors import Rule, WireError
from wire.messages import LONGEST_TIME, Assignment

_MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
"""What the coordinator's wall clock shows when the simulation starts."""


class Rounds:
    """A task that is played. `freed` hears of each device that is at work no more, `over` when the
    last round has ended."""

    def __init__(
        self,
        task: VirtualTask,
        timeline: Timeline,
        population: int,
        referee: Referee,
        learning: Learning,
        *,
        freed: Callable[[VirtualAssignment], None],
        over: Callable[["Rounds"], None],
    ) -> None:
        self.task = task
        self.ended: list[Ended] = []
        self.referee = referee
        self.learning = learning
        self.book = Book(task, population)
        self._timeline = timeline
        self._freed, self._over = freed, over
        self._given = 0
        self._shut = 0.0  # when the schedule's window was last seen closed
        places = task.policy.places(task.over_selection)
        self.round = task.make_round(1, 0, task.policy, places, timeline.now)
        referee.watch(lambda: self.round)
        self._begin()

    # What devices ask

    def refusal(self, device: str) -> Refusal | None:
        """Why the round has no place for a device; `None` when it is to have one."""
        now, schedule = self._timeline.now, self.task.schedule
        local = _MIDNIGHT
        if schedule.windows:
            local += timedelta(seconds=now)
            if not schedule.open_at(local):
                self._shut = now
        crowd = self.book.crowd(now)
        offered = Offered(self.task.name, self.round, self.task.selection, schedule, crowd)
        joined = max(self.round.opened, self._shut)
        return refusal(self.book.candidate(device), offered, now, local, joined)

    def give(self, device: str) -> VirtualAssignment:
        """A place for a device."""
        now, found = self._timeline.now, self.round
        self._given += 1
        name = f"{self.task.name}-{self._given}"
        given = VirtualAssignment(
            *(name, self.task.name, found.number, found.version, device, now), tally=self._tally
        )
        self.round = found.assigned(now)
        self.book.gave(given)
        self.referee.assigned(given.id, device)
        self._wake()
        return given

    def assignment(self, given: VirtualAssignment) -> Assignment:
        """What the device is told of it."""
        left = self.round.time_left(given.round, given.assigned, self._timeline.now)
        return self.learning.assignment(given, min(left, LONGEST_TIME))

    def give_up(self, given: VirtualAssignment) -> None:
        """The device will not deliver."""
        if given.state == "working":
            given.tally.given_up += self.round.ending is None
            self._drop(given, "given_up")

    def deliver(self, update: Update, given: VirtualAssignment) -> float | None:
        """An update arrived in full. `None`: it counts. A moment: its round is closing, then it is
        to be looked at again. Raises `Rejected` when it is late or refused."""
        contribution = self._read(given, update) if given.state == "working" else None
        arrival = self.round.arrival(given.held, self._timeline.now)
        if arrival is Arrival.COUNTS:
            # A round that counts what has come to nothing is wrong: let the referee say so.
            self._count(given, update, contribution or self.learning.read(update))
            return None
        self.referee.passed(given.id, arrival)
        match arrival:
            case Arrival.DUPLICATE:
                given.tally.duplicates += 1
                return None
            case Arrival.WAIT:
                assert self.round.ended is not None or self.round.deadline is not None
                ended = self._timeline.now if self.round.ended is None else self.round.ended
                return max(self._timeline.now, ended + self.task.closing)
            case _:
                given.tally.late += 1
                raise Rejected(409, "late", "the round has closed without this update")

    def _read(self, given: VirtualAssignment, update: Update) -> Contribution:
        try:
            return self.learning.read(update)
        except WireError as error:
            given.tally.refused += 1
            self._drop(given, "refused")
            raise Rejected(422, str(error.code), error.detail) from None

    def _count(self, given: VirtualAssignment, update: Update, contribution: Contribution) -> None:
        now, staleness = self._timeline.now, self.round.staleness(given.held)
        self.referee.count(given.id, staleness)
        self.round = self.round.counted(given.held, now)
        self._stale += staleness > 0
        self.learning.add(given, update, contribution._replace(staleness=staleness))
        self.book.accepted(given, contribution.examples, now)
        self._freed(given)
        self._wake()

    def _drop(self, given: VirtualAssignment, state: str) -> None:
        self.round = self.round.left(given.held)
        self.book.failed(given, state, self._timeline.now)
        self.referee.left(given.id, state)
        self._freed(given)

    # The timer

    def _begin(self) -> None:
        self.learning.opens(self.round)
        self._tally = Tally()
        self._stale = 0
        self._timer: float | None = None
        self.referee.begin(self.round)

    def _wake(self) -> None:
        """Something happened: end the round when it is due, or set the timer to its deadline."""
        if ending := self.round.due(self._timeline.now):
            self._end(ending)
        elif self.round.deadline is not None and self.round.deadline != self._timer:
            self._timer, number = self.round.deadline, self.round.number
            self._timeline.at(self._timer, lambda: self._ring(number))

    def _ring(self, number: int) -> None:
        if self.round.number == number and self.round.ending is None:
            self._wake()

    # The end

    def _end(self, ending: Ending) -> None:
        self.referee.end(ending)
        self.round = self.round.ends(ending, self._timeline.now)
        if self.round.phase is Phase.CLOSING and self.task.closing > 0:
            self._timeline.at(self._timeline.now + self.task.closing, self._finish)
        else:
            self._finish()

    def _finish(self) -> None:
        """Publish the model, if there is to be one, and go on."""
        now, version = self._timeline.now, self.round.version
        if self.round.phase is Phase.CLOSING:
            version += self._close()
        self._write_down()
        last = len(self.ended) >= self.task.rounds or self.learning.enough
        gone, failed = self.book.expire(self.round, version, last, now)
        for given in gone:
            self._freed(given)
            self.learning.gone(given.id)
        self.referee.expired({given.id for given in gone}, last)
        self.round = self.round.expired(len(gone), failed)
        self.learning.ended(self.round)
        places = self.book.places(self.round)
        if last:
            self._over(self)
        else:
            self.round = self.round.following(version, places, now)
            self._begin()
            self._wake()

    def _close(self) -> bool:
        """Make the model; whether there is one."""
        assert self.round.ended is not None
        try:
            self.referee.published(self.learning.close(self.round))
        except WireError as error:
            finite = error.code is not Rule.NOT_FINITE
            why = Reason.NOT_COMBINED if finite else Reason.NOT_FINITE
            self.round = self.round.ends(Ending(Phase.ABANDONED, why), self.round.ended)
            return False
        self.round = replace(self.round, published=True)
        return True

    def _write_down(self) -> None:
        found, referee = self.round, self.referee
        assert found.ending is not None
        assert found.ended is not None
        self.ended.append(
            Ended(
                task=self.task.name,
                number=found.number,
                phase=found.phase,
                reason=found.ending.reason,
                started=math.nan if referee.started is None else referee.started,
                ended=found.ended,
                filled=referee.filled,
                counted=tuple(referee.counted.values()),
                stale=self._stale,
                asked=found.places,
                places=referee.most,
                tally=self._tally,
            )
        )
