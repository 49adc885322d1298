"""The coordinator's side: what `coordinator.checkin` does for all tasks, with no I/O."""

from collections import Counter
from collections.abc import Callable, Sequence

from coordinator.offer import Refusal, come_back
from fleet.virtual.book import VirtualAssignment
from fleet.virtual.learning import Learning, Update
from fleet.virtual.one_weight import OneWeight
from fleet.virtual.record import PlayedRound
from fleet.virtual.referee import Referee
from fleet.virtual.rounds import Rounds
from fleet.virtual.task import VirtualTask
from fleet.virtual.timeline import Timeline
from schedules.pacing import Gate, RetryWindow
from wire.messages import LONGEST_TIME, CheckInReply, Wait, WaitReason


class Server:
    """Several tasks on one fleet of `population` devices. `gate`, if any, holds off a stampede.
    `learns` says what devices learn for a task; without it, one weight."""

    def __init__(
        self,
        timeline: Timeline,
        tasks: Sequence[VirtualTask],
        population: int,
        gate: Gate | None = None,
        learns: Callable[[VirtualTask], Learning] | None = None,
    ) -> None:
        self.check_ins: Counter[int] = Counter()
        self.turned_away = 0  # by the gate
        self._timeline = timeline
        self._population = population
        self._gate = gate
        self._given: dict[str, VirtualAssignment] = {}
        self._at_work: dict[str, VirtualAssignment] = {}  # by device
        rivals: list[Referee] = []
        busy: dict[str, str] = {}
        learns = learns or (lambda task: OneWeight(task, timeline.random))
        self._tasks = {
            task.name: Rounds(
                *(task, timeline, population, Referee(task, population, rivals, busy)),
                learns(task),
                freed=self._freed,
                over=self._over,
            )
            for task in tasks
        }
        self._open = list(self._tasks.values())
        self._referees = rivals

    @property
    def done(self) -> bool:
        """Whether all rounds of all tasks have ended."""
        return not self._open

    def step(self, now: float) -> None:
        """Time has come to `now`: the referees look."""
        for referee in self._referees:
            referee.step(now)

    def drained(self) -> None:
        """Nothing is left to happen."""
        for referee in self._referees:
            referee.drained()

    def played(self) -> tuple[PlayedRound, ...]:
        """The rounds that have ended, in that order."""
        ended = [e for rounds in self._tasks.values() for e in rounds.ended]
        return tuple(e.played() for e in sorted(ended, key=lambda e: e.ended))

    def learning(self, task: str) -> Learning:
        """What devices learn for a task."""
        return self._tasks[task].learning

    # What devices ask

    def answer(self, device: str) -> CheckInReply:
        """Work for `device`, or when to come back."""
        now = self._timeline.now
        self.check_ins[int(now)] += 1
        if self._gate is not None and (window := self._gate.admit(now)):
            self.turned_away += 1
            return _wait(WaitReason.BUSY, window)
        if held := self._at_work.get(device):
            return self._assignment(held)
        refusals: list[tuple[Refusal, float]] = []
        # The task whose round has waited longest comes first, so that none starves.
        for rounds in sorted(self._open, key=_opened):
            why = rounds.refusal(device)
            if why is None:
                return self._give(rounds, device)
            rounds.referee.turned_away(device, why.reason)
            refusals.append((why, float(rounds.task.schedule.check_in)))
        return self._come_back(refusals)

    def deliver(self, update: Update) -> float | None:
        """An update arrived: see `Rounds.deliver`."""
        given = self._given[update.assignment]
        return self._tasks[given.task].deliver(update, given)

    def give_up(self, assignment: str) -> None:
        """The device will not deliver."""
        given = self._given[assignment]
        self._tasks[given.task].give_up(given)

    def _give(self, rounds: Rounds, device: str) -> CheckInReply:
        given = rounds.give(device)
        self._given[given.id] = self._at_work[device] = given
        return self._assignment(given)

    def _freed(self, given: VirtualAssignment) -> None:
        del self._at_work[given.device]

    def _over(self, rounds: Rounds) -> None:
        self._open.remove(rounds)

    def _come_back(self, refusals: list[tuple[Refusal, float]]) -> CheckInReply:
        if not refusals:  # nothing is left to do: its day is over
            return _wait(WaitReason.TASK_DONE, RetryWindow(LONGEST_TIME, LONGEST_TIME))
        wait = come_back(refusals, self._population, self._timeline.now)
        return CheckInReply(protocol=1, wait=wait)

    def _assignment(self, given: VirtualAssignment) -> CheckInReply:
        assignment = self._tasks[given.task].assignment(given)
        return CheckInReply(protocol=1, assignment=assignment)


def _opened(rounds: Rounds) -> float:
    return rounds.round.opened


def _wait(reason: WaitReason, window: RetryWindow) -> CheckInReply:
    wait = Wait(reason=reason, after=window.after, before=window.before)
    return CheckInReply(protocol=1, wait=wait)
