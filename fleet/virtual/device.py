"""The device's side: what `edge_agent.agent` does around its `Life`, with no I/O.

A device touches nothing but itself and the server. So between two messages it runs ahead of the
others, by itself; only when a message arrives at the server do they wait for each other. Its story
is a generator that yields those moments: two or three to an update, one to a check-in in vain.
"""

import math
from collections.abc import Generator

from edge_agent.eligibility import Verdict
from edge_agent.errors import Offline, Rejected, TransportError
from edge_agent.job import Outcome
from edge_agent.lifecycle import CheckInNow, GiveBack, Life, Rest, Train, Upload
from fleet.virtual.behaviour import Behaviour
from fleet.virtual.learning import Learning, Update
from fleet.virtual.server import Server
from fleet.virtual.timeline import Timeline, later
from wire.messages import Assignment

Story = Generator[float, None, None]
"""Yields when a message arrives at the server, or has not for very long; goes on at that moment."""

_ELIGIBLE = Verdict(())
_POLL = 60.0
_ALONE = 86400.0  # seconds by which a device may be ahead of the others and hear nothing


class Device:
    """One device, which starts at `start` (in seconds) and lives by its behaviour."""

    def __init__(
        self,
        name: str,
        behaviour: Behaviour,
        timeline: Timeline,
        server: Server,
        check_in: float,
        start: float,
    ) -> None:
        self.name = name
        self._behaviour = behaviour
        self._timeline = timeline
        self._chance = timeline.random.random
        self._server = server
        self._check_in = check_in
        self._rate = 1.0 + behaviour.drift * (2 * self._chance() - 1)
        self._offset = behaviour.offset * self._chance()
        self._outbox: Update | None = None
        self._learnt: Learning
        self._answers_to_lose = 0
        self._online = True
        self._spell_ends = start + timeline.exponential(behaviour.up)
        self._now = start  # it may be ahead of the timeline
        self._story = self._live()
        timeline.at(start, self._go)

    def _go(self) -> None:
        """Its message has arrived: go on until the next one does."""
        when = next(self._story, None)
        if when is not None:
            self._timeline.at(when, self._go)

    # Its life

    def _live(self) -> Story:
        """Until the last task is over."""
        self._wake_up()
        while True:
            waiting = [self._outbox.assignment] if self._outbox else []
            match self._life.next(self._clock(), _ELIGIBLE, waiting):
                case Rest(seconds):
                    self._pass(seconds / self._rate)
                case CheckInNow():
                    if (yield from self._check_in_now()):
                        return
                case Train(assignment, seconds):
                    yield from self._train(assignment, seconds / self._rate)
                case Upload():
                    assert self._outbox
                    yield from self._upload(self._outbox)
                case GiveBack(assignment):
                    yield from self._give_up(assignment)
                case action:
                    raise AssertionError(f"nothing was published, and yet {action}")

    def _wake_up(self) -> None:
        """The first start, or one after which everything is forgotten."""
        self._life = Life(poll=_POLL, interval=self._check_in, check_in_at=self._clock())

    def _check_in_now(self) -> Generator[float, None, bool]:
        """Whether it is over: nothing is left to do, or it will not be heard of again."""
        try:
            yield from self._send()
            if self._server.done:
                return True
            reply = self._server.answer(self.name)
            self._hear()
        except TransportError as error:
            self._life.not_reached(error, self._clock(), self._chance())
            return False
        self._life.checked_in(reply, self._clock(), self._chance())
        behaviour = self._behaviour
        if reply.assignment and behaviour.vanishes and self._chance() < behaviour.vanishes:
            if math.isinf(behaviour.away):
                return True
            self._pass(self._timeline.exponential(behaviour.away))
            self._wake_up()
        return False

    def _train(self, assignment: Assignment, left: float) -> Story:
        """`left` seconds are left to the deadline, as its clock has it."""
        learning = self._server.learning(assignment.task)
        outcome, seconds = self._training(left)
        done = later(self._now, seconds) if outcome is Outcome.DONE else None
        learning.begins(self.name, assignment, done)
        self._pass(seconds)
        if done is not None and learning.takes_time:
            yield self._now
            outcome = learning.outcome(assignment.id)
        self._life.worked(outcome, self._clock(), self._chance())
        if outcome is Outcome.DONE:
            self._outbox = learning.update(assignment.id, self._behaviour)
            self._learnt = learning
            self._answers_to_lose = self._behaviour.repeats
        else:
            yield from self._give_up(assignment)

    def _training(self, left: float) -> tuple[Outcome, float]:
        """How training ends, and after how many seconds."""
        behaviour = self._behaviour
        draw = self._timeline.random.lognormvariate(math.log(behaviour.training), behaviour.spread)
        if self._chance() < behaviour.gives_up:
            return Outcome.CRASHED, min(draw, left) * self._chance()
        if behaviour.late_by > 0:
            return Outcome.DONE, left + self._timeline.exponential(behaviour.late_by)
        if draw >= left:
            return Outcome.OUT_OF_TIME, left
        return Outcome.DONE, draw

    def _give_up(self, assignment: Assignment) -> Story:
        """Say so, once."""
        try:
            yield from self._send()
            self._server.give_up(assignment.id)
            self._hear()
        except TransportError:
            pass

    def _upload(self, update: Update) -> Story:
        answer = "accepted"
        try:
            yield from self._send()
            yield from self._deliver(update)
            if self._answers_to_lose > 0:
                self._answers_to_lose -= 1
                raise Offline("the answer is lost")
        except TransportError as error:
            if self._life.not_uploaded(error, self._clock(), self._chance()):
                return
            answer = error.code if isinstance(error, Rejected) else answer
        self._life.uploaded(update.assignment, self._clock())
        self._learnt.settled(update.assignment, answer)
        self._outbox = None

    def _deliver(self, update: Update) -> Story:
        try:
            while (again := self._server.deliver(update)) is not None:
                self._now = max(self._now, again)
                yield self._now
        except Rejected:
            self._hear()
            raise
        self._hear()

    # The network: a message is lost when the device is offline as it goes through

    def _send(self) -> Story:
        """A message on its way to the server. Raises `Offline` when it is lost."""
        self._pass(self._timeline.exponential(self._behaviour.network))
        reached = self._reached()
        # One that is alone for very long lets others act: whoever watches may end it all.
        if reached or self._now > self._timeline.now + _ALONE:
            yield self._now
        if not reached:
            raise Offline("the request is lost")

    def _hear(self) -> None:
        """The answer's way back. Raises `Offline` when it is lost."""
        self._pass(self._timeline.exponential(self._behaviour.network))
        if not self._reached():
            raise Offline("the answer is lost")

    def _reached(self) -> bool:
        """Whether the network is there now."""
        if self._behaviour.down == 0:
            return True
        while self._spell_ends <= self._now:
            self._online = not self._online
            mean = self._behaviour.up if self._online else self._behaviour.down
            self._spell_ends += self._timeline.exponential(mean)
        return self._online

    # Time

    def _clock(self) -> float:
        """What its own clock shows."""
        return self._offset + self._rate * self._now

    def _pass(self, seconds: float) -> None:
        self._now = later(self._now, seconds)
