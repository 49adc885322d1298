"""The agent's life, as a pure state machine: facts and `now` in, the next action out.

What is done, in order of precedence:

    upload      an update waits in the outbox and the network may be used
    give back   there is an assignment whose time is up
    train       there is an assignment with time left, and the device is eligible
    evaluate    a newer model was published, and the device is eligible
    check in    the moment has come, and the device is eligible
    rest        until one of these can be

So an update that was trained is delivered before new work is asked for, and the outbox never holds
more than one. `now` is in seconds on the monotonic clock; randomness comes in as `fraction`, a
uniform draw from 0 to 1.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from edge_agent.eligibility import Verdict
from edge_agent.errors import AgentError, Interrupted, Rejected, TransportError
from edge_agent.job import Outcome
from schedules.backoff import PERMANENT, TRANSIENT, Backoff
from schedules.pacing import RetryWindow
from wire.errors import Rule
from wire.messages import Assignment, CheckInReply, Published

FINAL_CODES = frozenset({"late", "unknown_assignment", "too_large", *map(str, Rule)})
"""The coordinator's answers after which an update is worth nothing. Any other one, a proxy's 404
say, keeps it: what was trained is not thrown away for a stranger's word."""

SHORTEST_WAIT, LONGEST_WAIT = 0.1, 7 * 86400.0
"""Seconds between two check-ins, whatever the coordinator says: no busy loop, no sleep for good."""

MEASURING_SECONDS = 1.0
"""Between the first two looks at the signals: the load is that between them."""

_PREEMPTED_MOST = 2
"""Evaluations in a row that are preempted before one goes without tuning."""

_AFTER_FAILURE = Backoff(first=60.0, limit=6 * 3600.0)
_WITHOUT_EXAMPLES = Backoff(first=60.0, limit=3600.0)


class Upload(NamedTuple):
    """Deliver the update of this assignment."""

    assignment: str


class Train(NamedTuple):
    """Train; `seconds` are left to the deadline."""

    assignment: Assignment
    seconds: float


class Evaluate(NamedTuple):
    """Evaluate a published model; `tune`: and make it this device's own, if it is to be."""

    published: Published
    tune: bool = True


class GiveBack(NamedTuple):
    """Drop what was trained for an assignment whose deadline has passed, and say so."""

    assignment: Assignment


class CheckInNow(NamedTuple):
    """Ask for work."""


class Rest(NamedTuple):
    """Do nothing for at most `seconds`; `why` is a code and a sentence. `watchful`: a signal that
    turns ends it."""

    seconds: float
    why: str
    watchful: bool = False


Action = Upload | GiveBack | Train | Evaluate | CheckInNow | Rest


@dataclass
class Life:
    """What the agent knows between two actions.

    `poll` is the wait between two looks at the signals, `interval` the usual one between two
    check-ins, both in seconds. Three failures are counted, each in a row: to reach the coordinator,
    to fetch what it named, and to train (`failed`, which outlives a restart). `offers`: when a
    task's newest model is offered to local programs once more. `work_at`: before this no job is
    begun, since the last ones were preempted before they had done anything.
    """

    poll: float
    interval: float
    check_in_at: float
    upload_at: float = 0.0
    work_at: float = 0.0
    assignment: Assignment | None = None
    deadline: float = 0.0
    published: tuple[Published, ...] = ()
    evaluated: dict[str, int] = field(default_factory=dict)
    waiting_for: str = "first check-in"
    failed: int = 0
    offers: dict[str, float] = field(default_factory=dict)
    _offline: int = 0
    _unfetched: int = 0
    _fruitless: int = 0
    _without: dict[str, tuple[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.failed:  # a restart is no reason to try again at once
            self.check_in_at += _AFTER_FAILURE.first

    @property
    def failures(self) -> tuple[int, int, int]:
        """Failures in a row, of each kind: one more than before means that an attempt failed."""
        return self._offline, self._unfetched, self.failed

    def next(self, now: float, verdict: Verdict, outbox: list[str]) -> Action:
        """The next action. `outbox` names the assignments whose updates wait."""
        if outbox:
            if not verdict.may_send:
                return self._watch(verdict)
            if now < self.upload_at:
                return Rest(self.upload_at - now, self.waiting_for)
            return Upload(outbox[0])
        if self.assignment and now >= self.deadline:
            late, self.assignment = self.assignment, None
            # However little time a coordinator gives, it is not asked again at once.
            self.check_in_at = max(self.check_in_at, now + self.interval / 2)
            self._fruitless, self.work_at = 0, 0.0
            return GiveBack(late)
        work = self._work(now)
        if isinstance(work, Rest):
            return work
        return work if verdict.eligible else self._watch(verdict)

    def _watch(self, verdict: Verdict) -> Rest:
        """Wait for a signal to turn, or to be measured, or for all to have held long enough."""
        wait = MEASURING_SECONDS if verdict.measuring else verdict.settles_in or self.poll
        return Rest(min(wait, self.poll), verdict.why(), watchful=True)

    def without(self, now: float) -> tuple[str, ...]:
        """The tasks for which this device lately found no examples: it does not ask for them."""
        return tuple(task for task, (_, until) in self._without.items() if now < until)

    def _work(self, now: float) -> Action:
        if self.assignment:
            if now < self.work_at:
                wait = min(self.work_at, self.deadline) - now
                return Rest(wait, "preempted: again and again, before a single step")
            return Train(self.assignment, self.deadline - now)
        for model in self.published if now >= self.work_at else ():
            due = now >= self.offers.get(model.task, math.inf)
            if due or model.version > self.evaluated.get(model.task, -1):
                # Without tuning it takes a moment: a device that is never left alone for long
                # still gets its models, and still has its say.
                return Evaluate(model, tune=self._fruitless < _PREEMPTED_MOST)
        if now < self.check_in_at:
            return Rest(self.check_in_at - now, self.waiting_for)
        return CheckInNow()

    def checked_in(self, reply: CheckInReply, now: float, fraction: float) -> None:
        """The coordinator answered at `now`."""
        self._offline = 0
        self.published = reply.published
        self.assignment = reply.assignment
        if reply.assignment:
            self.deadline = now + reply.assignment.deadline
            self._fruitless, self.work_at = 0, 0.0
            self.check_in_at = now + SHORTEST_WAIT
            return
        window = RetryWindow(self.interval / 2, self.interval * 1.5)
        if reply.wait:
            window = RetryWindow(reply.wait.after, max(reply.wait.after, reply.wait.before))
            self.waiting_for = str(reply.wait.reason)
        wait = window.pick(fraction)
        self.check_in_at = now + min(max(wait, SHORTEST_WAIT), LONGEST_WAIT)

    def not_reached(self, error: TransportError, now: float, fraction: float) -> None:
        """A check-in failed: come back later, the later the more often it did."""
        self._offline += 1
        self._put_off(error, self._offline, now, fraction)

    def fetched(self) -> None:
        """Everything that the work needs is here."""
        self._unfetched = 0

    def not_fetched(self, error: AgentError, now: float, fraction: float) -> None:
        """A plan or a model could not be had, though the coordinator answers: come back later."""
        self._unfetched += 1
        self._put_off(error, self._unfetched, now, fraction)

    def _put_off(self, error: AgentError, failures: int, now: float, fraction: float) -> None:
        self.check_in_at = now + _backoff(error).delay(failures, fraction)
        self.published = ()
        self.assignment = None  # the coordinator gives the same one again
        self.waiting_for = _reason(error)

    def worked(
        self, outcome: Outcome, now: float, fraction: float, fruitless: bool = False
    ) -> None:
        """Training ended; `fruitless`: without a step. A preempted assignment is kept, for the time
        that is left: its training goes on when the device is eligible again. A task without
        examples is not asked for, for some time; any other failure is a rest."""
        if outcome is Outcome.PREEMPTED:
            self._preempted(now, fraction, fruitless)
            return
        self._fruitless = 0
        work, self.assignment = self.assignment, None
        if work and outcome is not Outcome.NO_EXAMPLES:
            self._without.pop(work.task, None)
        if outcome is Outcome.DONE:
            self.failed = 0
            return
        if work and outcome is Outcome.NO_EXAMPLES:
            failures = self._without.get(work.task, (0, 0.0))[0] + 1
            self._without[work.task] = failures, now + _WITHOUT_EXAMPLES.delay(failures, fraction)
            return
        self.failed += 1
        self.published = ()
        self.check_in_at = now + _AFTER_FAILURE.delay(self.failed, fraction)
        self.waiting_for = f"rests after a failure: {outcome}"

    def _preempted(self, now: float, fraction: float, fruitless: bool) -> None:
        """Loading the examples may be what turns a signal: that must not go on for ever."""
        self._fruitless = self._fruitless + 1 if fruitless else 0
        if self._fruitless > 1:
            self.work_at = now + _AFTER_FAILURE.delay(self._fruitless - 1, fraction)

    def evaluation_preempted(self, now: float, fraction: float) -> None:
        """A published version was not evaluated to the end; it is tried again."""
        self._preempted(now, fraction, fruitless=True)

    def evaluation_failed(self, outcome: Outcome, now: float, fraction: float) -> None:
        """A published version cannot be evaluated: rest, as after a training that failed."""
        self.failed += 1
        self.published = ()
        self.check_in_at = now + _AFTER_FAILURE.delay(self.failed, fraction)
        self.waiting_for = f"rests after a failure: {outcome}"

    def measured(self, task: str, version: int, now: float, fraction: float) -> None:
        """A published version was evaluated: do so once, and tell at a check-in before long."""
        self._fruitless = 0
        self.offers.pop(task, None)
        if version <= self.evaluated.get(task, -1):
            return
        self.evaluated[task] = version
        self.check_in_at = min(self.check_in_at, now + self.interval * (0.5 + fraction))

    def uploaded(self, assignment: str, now: float) -> None:
        """The update is acknowledged, or worth nothing any more: ask for new work."""
        self._offline = 0
        self.upload_at = self.check_in_at = now
        if self.assignment and self.assignment.id == assignment:
            self.assignment = None  # it was done just as it was told to stop

    def not_uploaded(self, error: AgentError, now: float, fraction: float) -> bool:
        """Whether to keep the update after this failure to deliver it, or to forget it then; if so,
        it is tried again later."""
        if isinstance(error, Rejected) and error.code in FINAL_CODES:
            return False
        self._offline += 1
        self.upload_at = now + _backoff(error).delay(self._offline, fraction)
        self.waiting_for = f"an update waits to be sent: {_reason(error)}"
        return True


def _backoff(error: AgentError) -> Backoff:
    return TRANSIENT if error.transient else PERMANENT


def _reason(error: AgentError) -> str:
    """A code and a sentence."""
    if isinstance(error, Rejected):
        return f"{error.code}: {error.detail}"
    if isinstance(error, Interrupted):  # a signal's own
        return str(error)
    return f"{'offline' if isinstance(error, TransportError) else 'state'}: {error}"
