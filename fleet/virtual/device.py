"""The device's side: what `edge_agent.agent` does around its `Life`, with no I/O."""

import math
from collections.abc import Callable
from typing import TypeVar

from edge_agent.eligibility import Verdict
from edge_agent.errors import Offline, Rejected, TransportError
from edge_agent.job import Outcome
from edge_agent.lifecycle import CheckInNow, Evaluate, Life, Rest, Train, Upload
from fleet.virtual.behaviour import Behaviour
from fleet.virtual.server import Server, Update
from fleet.virtual.timeline import Timeline
from wire.messages import Assignment, CheckInReply

Answer = TypeVar("Answer")

_ELIGIBLE = Verdict(())
_POLL = 60.0


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
        self._server = server
        self._check_in = check_in
        self._outbox: Update | None = None
        self._answers_to_lose = 0
        self._online = True
        self._spell_ends = start + timeline.exponential(behaviour.up)
        timeline.at(start, self._wake_up)

    def _wake_up(self) -> None:
        """The first start, or one after which everything is forgotten."""
        self._life = Life(poll=_POLL, interval=self._check_in, check_in_at=self._timeline.now)
        self._step()

    def _step(self) -> None:
        """Do the next thing. When the task is over, a device that would ask for work rests."""
        waiting = [self._outbox.assignment] if self._outbox else []
        match self._life.next(self._timeline.now, _ELIGIBLE, waiting):
            case Rest(seconds):
                self._timeline.after(seconds, self._step)
            case Train(assignment, seconds):
                self._train(assignment, seconds)
            case Upload():
                assert self._outbox
                self._upload(self._outbox)
            case CheckInNow():
                if not self._server.done:
                    self._ask()
            case Evaluate():
                raise AssertionError("nothing was published")

    # Errands

    def _ask(self) -> None:
        self._request(lambda: self._server.answer(self.name), self._answered, self._not_answered)

    def _answered(self, reply: CheckInReply) -> None:
        self._life.checked_in(reply, self._timeline.now, self._chance())
        if reply.assignment and self._chance() < self._behaviour.vanishes:
            if math.isfinite(self._behaviour.away):
                away = self._timeline.exponential(self._behaviour.away)
                self._timeline.after(away, self._wake_up)
            return
        self._step()

    def _not_answered(self, error: TransportError) -> None:
        self._life.not_reached(error, self._timeline.now, self._chance())
        self._step()

    def _train(self, assignment: Assignment, left: float) -> None:
        """`left` seconds are left to the deadline."""
        outcome, seconds = self._training(left)
        self._timeline.after(seconds, lambda: self._trained(assignment, outcome))

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

    def _trained(self, assignment: Assignment, outcome: Outcome) -> None:
        self._life.worked(outcome, self._timeline.now, self._chance())
        if outcome is Outcome.DONE:
            self._outbox = self._update(assignment.id)
            self._answers_to_lose = self._behaviour.repeats
            self._step()
            return
        self._request(
            lambda: self._server.give_up(assignment.id),
            lambda _: self._step(),
            lambda _: self._step(),
        )

    def _update(self, assignment: str) -> Update:
        random = self._timeline.random
        value = float(random.randint(-1000, 1000))
        if self._chance() < self._behaviour.lies:
            value = math.nan
        return Update(assignment, value, random.randint(1, 100))

    def _upload(self, update: Update) -> None:
        self._request(lambda: self._server.deliver(update), self._taken, self._not_taken)

    def _taken(self, _: None) -> None:
        if self._answers_to_lose > 0:
            self._answers_to_lose -= 1
            self._not_taken(Offline("the answer is lost"))
            return
        self._settle()

    def _not_taken(self, error: TransportError) -> None:
        if self._life.not_uploaded(error, self._timeline.now, self._chance()):
            self._step()
        else:
            self._settle()

    def _settle(self) -> None:
        """The coordinator has answered for good."""
        assert self._outbox
        self._life.uploaded(self._outbox.assignment, self._timeline.now)
        self._outbox = None
        self._step()

    # The network

    def _request(
        self,
        ask: Callable[[], Answer],
        answered: Callable[[Answer], None],
        failed: Callable[[TransportError], None],
    ) -> None:
        """Ask the server, a message's time from now; hear of it as long after. Either message is
        lost when the device is offline as it goes through."""

        def arrive() -> None:
            if not self._reached():
                failed(Offline("the request is lost"))
                return
            try:
                answer = ask()
            except Rejected as error:
                told = error
                self._timeline.after(self._delay(), lambda: hear(lambda: failed(told)))
            else:
                self._timeline.after(self._delay(), lambda: hear(lambda: answered(answer)))

        def hear(act: Callable[[], None]) -> None:
            if self._reached():
                act()
            else:
                failed(Offline("the answer is lost"))

        self._timeline.after(self._delay(), arrive)

    def _delay(self) -> float:
        return self._timeline.exponential(self._behaviour.network)

    def _reached(self) -> bool:
        """Whether the network is there now."""
        if self._behaviour.down == 0:
            return True
        while self._spell_ends <= self._timeline.now:
            self._online = not self._online
            mean = self._behaviour.up if self._online else self._behaviour.down
            self._spell_ends += self._timeline.exponential(mean)
        return self._online

    def _chance(self) -> float:
        return self._timeline.random.random()
