"""The coordinator's side: what `coordinator.running` and `coordinator.service` do, with no I/O."""

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from coordinator.aggregation import RunningSum
from coordinator.round import Arrival, Ending, Phase, Round, RoundPolicy
from edge_agent.errors import Rejected
from fleet.virtual.record import Ended, PlayedRound, Tally
from fleet.virtual.referee import Referee
from fleet.virtual.timeline import Timeline
from schedules.pacing import retry_window
from wire.messages import Assignment, CheckInReply, Wait, WaitReason
from wire.plan import Parameter

MakeRound = Callable[[int, RoundPolicy], Round]

_DIGEST = "sha256:" + "0" * 64
_MODEL = (Parameter(name="w", shape=(1,)),)


class Update(NamedTuple):
    """What a device sends: one weight's delta, a whole number unless it lies."""

    assignment: str
    value: float
    examples: int


class Server:
    """One task, `rounds` rounds of it. `population` devices check in about every `check_in`
    seconds."""

    def __init__(
        self,
        timeline: Timeline,
        policy: RoundPolicy,
        rounds: int,
        check_in: float,
        population: int,
        make_round: MakeRound,
    ) -> None:
        self.check_ins: Counter[int] = Counter()
        self.referee = Referee(policy)
        self._timeline = timeline
        self._policy = policy
        self._left = rounds
        self._check_in = check_in
        self._population = population
        self._make_round = make_round
        self._ended: list[Ended] = []
        self._journal: dict[str, Tally] = {}  # assignment to the tally of its round
        self._accepted: set[str] = set()
        self._begin(1)

    @property
    def done(self) -> bool:
        """Whether all rounds have ended."""
        return self._left == 0

    def played(self) -> tuple[PlayedRound, ...]:
        """The rounds that have ended."""
        return tuple(ended.played() for ended in self._ended)

    # What devices ask

    def answer(self, device: str) -> CheckInReply:
        """Work for `device`, or when to come back."""
        self.check_ins[int(self._timeline.now)] += 1
        offer = self._offer(device)
        if isinstance(offer, Assignment):
            return CheckInReply(protocol=1, assignment=offer)
        window = retry_window(0.0, self._check_in, self._population)
        wait = Wait(reason=offer, after=window.after, before=window.before)
        return CheckInReply(protocol=1, wait=wait)

    def _offer(self, device: str) -> Assignment | WaitReason:
        now = self._timeline.now
        if self.done:
            return WaitReason.TASK_DONE
        if held := self._round.held_by(device):
            return self._assignment(held)
        if refusal := self._round.refusal(device, now):
            self.referee.turned_away(device)
            return refusal
        assignment = f"a{len(self._journal)}"
        self._journal[assignment] = self._tally
        self._round.assign(assignment, device, now)
        self.referee.assigned(assignment, device)
        self._wake()
        return self._assignment(assignment)

    def give_up(self, assignment: str) -> None:
        """The device will not deliver."""
        in_time = self._round.ending is None
        if self._round.leave(assignment):
            self._tally.given_up += in_time
            self.referee.left(assignment, "it gave up")

    def deliver(self, update: Update) -> None:
        """An update arrived in full. Raises `Rejected` when it is late or refused."""
        assignment = update.assignment
        tally = self._journal[assignment]
        match self._arrival(assignment):
            case Arrival.DUPLICATE:
                tally.duplicates += 1
                self.referee.passed(assignment, "duplicate")
            case Arrival.LATE | Arrival.UNKNOWN:
                tally.late += 1
                self.referee.passed(assignment, "late")
                raise Rejected(409, "late", "the round has closed without this update")
            case Arrival.COUNTS if not math.isfinite(update.value):
                tally.refused += 1
                if self._round.leave(assignment):
                    self.referee.left(assignment, "refused")
                raise Rejected(422, "not_finite", "not a number")
            case Arrival.COUNTS:
                self._count(update)

    def _arrival(self, assignment: str) -> Arrival:
        arrival = self._round.arrival(assignment, self._timeline.now)
        if arrival is Arrival.UNKNOWN and assignment in self._accepted:
            return Arrival.DUPLICATE
        return arrival

    def _count(self, update: Update) -> None:
        self.referee.count(update.assignment, int(update.value), update.examples)
        self._accepted.add(update.assignment)
        self._sum.add({"w": np.array([update.value], np.float32)}, update.examples)
        self._round.count(update.assignment)
        self._wake()

    # The timer

    def _begin(self, number: int) -> None:
        self._round = self._make_round(number, self._policy)
        self._sum = RunningSum(_MODEL, 1 << 30)
        self._tally = Tally()
        self._timer: float | None = None
        self.referee.begin(self._round)

    def _wake(self) -> None:
        """Something happened: end the round when it is due, or set the timer to its deadline."""
        if ending := self._round.due(self._timeline.now):
            self._end(ending)
        elif self._round.deadline is not None and self._round.deadline != self._timer:
            self._timer, round_ = self._round.deadline, self._round
            self._timeline.at(self._timer, lambda: self._ring(round_))

    def _ring(self, round_: Round) -> None:
        if round_ is self._round and round_.ending is None:
            self._wake()

    def _end(self, ending: Ending) -> None:
        self.referee.end(ending)
        if ending.phase is Phase.CLOSED:
            new = self._sum.apply({"w": np.zeros(1, np.float32)})
            self.referee.mean(new["w"][0])
        self._round.end(ending)
        assert self.referee.started is not None
        self._ended.append(
            Ended(
                number=self._round.number,
                phase=ending.phase,
                reason=ending.reason,
                started=self.referee.started,
                ended=self._timeline.now,
                filled=self.referee.filled,
                counted=tuple(self.referee.counted.values()),
                places=self.referee.most,
                tally=self._tally,
            )
        )
        self._left -= 1
        if not self.done:
            self._begin(self._round.number + 1)

    def _assignment(self, assignment: str) -> Assignment:
        return Assignment(
            id=assignment,
            task="virtual",
            round=self._round.number,
            version=0,
            plan=_DIGEST,
            model=_DIGEST,
            codec="float32",
            deadline=self._round.remaining(self._timeline.now),
            upload_limit=1 << 20,
            seed=0,
        )
