"""The agent: the asyncio shell around `lifecycle.Life`. Gathers facts, acts, feeds back.

Nothing is connected while it trains. Cancelling `run` stops the child, closes the connection, saves
the history and leaves the outbox as it is: an update waits there until the coordinator has
acknowledged it.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

from edge_agent import budget
from edge_agent.cache import Cache
from edge_agent.child import start_child
from edge_agent.config import Config
from edge_agent.eligibility import Verdict
from edge_agent.errands import Errands
from edge_agent.errors import AgentError, Rejected, StateError, TransportError
from edge_agent.heap import give_back
from edge_agent.job import Outcome, Report
from edge_agent.jobs import Jobs, StartJob
from edge_agent.keeping import Why
from edge_agent.ledger import Ledger
from edge_agent.lifecycle import (
    MEASURING_SECONDS,
    Action,
    CheckInNow,
    Evaluate,
    GiveBack,
    Life,
    Rest,
    Train,
    Upload,
)
from edge_agent.lookout import Lookout, Observer
from edge_agent.platform import facts
from edge_agent.state import Identity, StateFolder
from edge_agent.status import Status
from schedules.clock import Clock
from systemd.journal import fields
from wire import PROTOCOL_VERSIONS
from wire.messages import Assignment, CheckIn, Published

log = logging.getLogger(__name__)

_LONGEST_SLEEP = 300.0  # a machine that slept through its rest is late by no more

_TELLABLE = (Outcome.CRASHED, Outcome.DIVERGED, Outcome.OUT_OF_MEMORY)
"""Failures whose details are the software's. Others may name files, or quote a row: they stay here.
"""

_CUT_SHORT = (Outcome.CRASHED, Outcome.OUT_OF_TIME, Outcome.OUT_OF_MEMORY)
"""How a job ends that asks too much of its process: a step that never ends, memory that is not
there."""


class Errand(NamedTuple):
    """What `Agent.once` came to: what it `did`, and `why` it did no more. `failed`: something that
    it tried did not work."""

    verdict: Verdict
    did: tuple[str, ...]
    why: str
    failed: bool

    def text(self) -> str:
        """For people, in one line."""
        if self.did:
            why = f"; {self.why}" if self.failed else ""
            return f"done: {', '.join(self.did)}{why}"
        return f"{'nothing done' if self.failed else 'nothing to do'}: {self.why}"


class Agent:
    """One device's agent. Making one reads its history: blocking."""

    def __init__(
        self,
        config: Config,
        state: StateFolder,
        identity: Identity,
        clock: Clock,
        observer: Observer,
        start_job: StartJob = start_child,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._config = config
        self._state = state
        self._identity = identity
        self._clock = clock
        self._observer = observer
        self._tell = tell
        self._cache = Cache(state)
        self._history = state.history_of(identity.device)
        self._facts = facts()
        self._errands = Errands(
            identity,
            state,
            self._cache,
            self._history,
            clock,
            lambda: self._lookout.network_refused(),
            lambda: budget.allowance(self._ledger.spent(), config.budget),
        )
        self._ledger = Ledger(self._history, state, clock, lambda: self._errands.moving)
        self._lookout = Lookout(
            *(config, state, identity, clock, observer),
            *(self._ledger.spent, self._save, self._ledger.is_due),
        )
        self._jobs = Jobs(config, state, self._cache, clock, start_job, observer.own_pids)
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing
        spread = self._random.random() * min(30.0, config.timing.check_in / 2)
        self._life = Life(
            poll=config.poll,
            interval=config.timing.check_in,
            check_in_at=clock.monotonic() + spread,
            evaluated=dict(self._history.evaluated),
            failed=self._history.failed,
            # Whether local programs have the newest of them is not remembered: it is offered again.
            offers={
                task: clock.monotonic() + config.models.every for task in self._history.evaluated
            },
        )
        self._acted = False
        self._doing, self._why, self._since = "starting", "", clock.monotonic()

    async def run(self) -> None:
        """Live until cancelled."""
        try:
            while True:
                rest = await self.step()
                if rest and rest.watchful:
                    await self._observer.wait(rest.seconds)
                elif rest:
                    await asyncio.sleep(min(rest.seconds, _LONGEST_SLEEP))
        finally:
            await self._save()

    async def step(self) -> Rest | None:
        """Do the next thing; returns the rest that is due when there is nothing to do."""
        action = await self._next()
        if self._acted:  # not sooner: a connection is closed in the loop's next turns
            self._acted = False
            await asyncio.to_thread(give_back)
        if isinstance(action, Rest):
            self._now_doing("waiting", action.why)
            return action
        await self._act(action)
        self._acted = True
        return None

    async def once(self) -> Errand:
        """Check in now and do what there is to do. Asked for by hand, it waits for no settling."""
        self._lookout.settle_at_once()
        verdict = await self._lookout.look()
        if verdict.measuring:
            await asyncio.sleep(MEASURING_SECONDS)
            verdict = await self._lookout.look()
        self._life.check_in_at = self._now()
        served, evaluated = self._history.served, dict(self._life.evaluated)
        failures = self._life.failures
        checked_in = False
        try:
            while not isinstance(action := await self._next(), Rest):
                if isinstance(action, CheckInNow):
                    if checked_in:
                        break
                    checked_in = True
                await self._act(action)
        finally:
            await self._save()
        did = [
            f"{s.task} round {s.round} {s.outcome}" for s in self._history.served if s not in served
        ]
        did += [
            f"{task} version {version} evaluated"
            for task, version in self._life.evaluated.items()
            if version != evaluated.get(task)
        ]
        why = action.why if isinstance(action, Rest) else self._life.waiting_for
        failed = any(now > then for now, then in zip(self._life.failures, failures, strict=True))
        return Errand(verdict, tuple(did), why, failed)

    def status(self) -> Status:
        """What it does now, and why."""
        now = self._now()
        wait = self._life.check_in_at - now
        return Status(
            doing=self._doing,
            why=self._why,
            since=now - self._since,
            next_check_in=wait if wait > 0 else None,
            served=self._history.served,
            bytes_up=self._history.bytes_up,
            bytes_down=self._history.bytes_down,
            budgets=budget.uses(self._ledger.spent(), self._config.budget),
        )

    async def _next(self) -> Action:
        verdict = await self._lookout.look()
        outbox = await asyncio.to_thread(self._state.waiting)
        return self._life.next(self._now(), verdict, outbox)

    # Acting

    async def _act(self, action: Upload | GiveBack | Train | Evaluate | CheckInNow) -> None:
        match action:
            case Upload():
                await self._upload(action.assignment)
            case GiveBack():
                await self._give_back(action.assignment)
            case Train():
                await self._train(action.assignment, action.seconds)
            case Evaluate():
                await self._evaluate(action.published, action.tune)
            case CheckInNow():
                await self._check_in()
        if self._ledger.is_due():  # of an errand that failed, or had nothing else to be remembered
            await self._save()

    async def _check_in(self) -> None:
        self._now_doing("checking in", self._identity.url)
        data = self._config.data
        evaluations = tuple(self._history.evaluations)
        message = CheckIn(
            protocols=PROTOCOL_VERSIONS,
            facts=self._facts,
            tasks=None if data.folder else tuple(data.tasks),
            without=self._life.without(self._now()),
            evaluations=evaluations,
        )
        try:
            reply, came, unfetched, date = await self._errands.check_in(message)
        except TransportError as error:
            log.warning("check-in: %s", error)
            self._life.not_reached(error, self._now(), self._random.random())
            return
        log.debug("check-in: %s", reply)
        self._history.evaluations = self._history.evaluations[len(evaluations) :]
        self._life.checked_in(reply, came, self._random.random())
        self._jobs.told = (date, came)
        if work := reply.assignment:
            about = fields(TASK=work.task, ROUND=work.round)
            log.info("assigned: %s round %d", work.task, work.round, extra=about)
            self._fetched(unfetched)
        await self._forget_all_but(reply.assignment, reply.published)

    async def _have(self, work: Assignment | Published) -> bool:
        """Have what work needs: what was fetched may have been kept in memory, and be gone."""
        try:
            if not await asyncio.to_thread(self._cache.has, work.plan, work.model):
                self._now_doing("fetching", f"{work.task} version {work.version}")
                await self._errands.fetch(work)
        except AgentError as error:
            self._fetched(error)
            return False
        self._fetched(None)
        return True

    def _fetched(self, error: AgentError | None) -> None:
        """A plan and a model are here, or else their work is put off."""
        if error is None:
            self._life.fetched()
            return
        log.warning("fetching: %s", error)
        self._life.not_fetched(error, self._now(), self._random.random())

    async def _forget_all_but(
        self, assignment: Assignment | None, published: tuple[Published, ...]
    ) -> None:
        """Old plans, models and checkpoints go."""
        wanted = [w for w in (assignment, *published) if w]
        plans, models = {w.plan for w in wanted}, {w.model for w in wanted}
        try:
            await asyncio.to_thread(self._cache.keep_only, plans, models)
        except StateError as error:
            log.warning("%s", error)
        await self._forget_trainings(but=assignment.id if assignment else None)

    async def _forget_trainings(self, but: str | None = None) -> None:
        """What was trained for other assignments is worth nothing any more."""
        try:
            await asyncio.to_thread(self._state.forget_checkpoints, but)
        except StateError as error:
            log.warning("%s", error)

    async def _train(self, work: Assignment, seconds: float) -> None:
        if not await self._have(work):
            return
        self._now_doing("training", f"{work.task} round {work.round}")
        evaluate = work.version > self._life.evaluated.get(work.task, -1)
        with self._ledger.costs.training():
            seconds = min(seconds, self._life.deadline - self._now())
            report = await self._jobs.train(work, seconds, evaluate, self._lookout.job_refused)
        self._remember(work.task, work.version, report)
        fruitless = report.steps <= report.resumed_at
        self._life.worked(report.outcome, self._now(), self._random.random(), fruitless)
        if report.outcome is Outcome.PREEMPTED:
            await self._save()  # what it cost counts, whatever happens to this agent
            return
        done = report.outcome is Outcome.DONE
        await self._served(work, report, "waiting" if done else str(report.outcome))
        if not done:
            await self._forget_trainings()
            detail = report.detail if report.outcome in _TELLABLE else ""
            await self._give_up(work.id, str(report.outcome), detail)

    async def _give_back(self, work: Assignment) -> None:
        """The deadline passed before the device was eligible for long enough."""
        self._now_doing("giving back", f"{work.task} round {work.round}")
        detail = "its deadline passed while the device was not eligible"
        report = Report(outcome=Outcome.PREEMPTED, detail=detail)
        await self._forget_trainings()
        await self._served(work, report, str(report.outcome))
        await self._give_up(work.id, str(report.outcome), detail)

    async def _evaluate(self, published: Published, tune: bool) -> None:
        if not await self._have(published):
            return
        self._now_doing("evaluating", f"{published.task} version {published.version}")
        limit = self._config.training.time_limit
        tune = tune and await asyncio.to_thread(self._jobs.tunes, published)
        with self._ledger.costs.training() if tune else nullcontext():  # tuning is training, too
            report = await self._jobs.evaluate(published, limit, self._lookout.job_refused, tune)
        if tune and report.outcome in _CUT_SHORT:  # by the tuning, perhaps: the model goes without
            report = await self._jobs.evaluate(published, limit, self._lookout.job_refused)
        now, fraction = self._now(), self._random.random()
        if report.outcome is Outcome.PREEMPTED:
            self._life.evaluation_preempted(now, fraction)
        else:
            # Also when it failed: this version will not do better the next time.
            self._life.measured(published.task, published.version, now, fraction)
        if report.outcome not in (Outcome.DONE, Outcome.PREEMPTED, Outcome.NO_EXAMPLES):
            self._life.evaluation_failed(report.outcome, now, fraction)
        self._remember(published.task, published.version, report)
        await self._save()

    async def _upload(self, assignment: str) -> None:
        self._now_doing("uploading", assignment)
        outcome, detail, sent = "accepted", "", 0
        try:
            sent = await self._errands.upload(assignment)
        except AgentError as error:
            log.warning("upload: %s", error)
            keep = self._life.not_uploaded(error, self._now(), self._random.random())
            if keep or not isinstance(error, Rejected):
                return
            outcome, detail = error.code, error.detail
        # The coordinator has answered for good: only now is the update forgotten.
        late = self._ledger.task_of(assignment) if outcome == "late" else ""
        accepted = outcome == "accepted"
        try:
            await asyncio.to_thread(self._state.forget_update, assignment, late, accepted)
        except StateError as error:  # the disk has become read-only, say
            log.error("%s", error)
            self._life.not_uploaded(error, self._now(), self._random.random())
            return
        self._life.uploaded(assignment, self._now())
        served = self._ledger.settled(assignment, outcome, detail, sent)
        about = fields(TASK=served.task, ROUND=served.round, REASON=outcome)
        log.info("update of %s: %s", assignment, outcome, extra=about)
        await self._save()

    async def _give_up(self, assignment: str, reason: str, detail: str) -> None:
        """If the coordinator cannot be told, the deadline will tell it."""
        if not (await self._lookout.look()).may_send:
            return
        try:
            await self._errands.give_up(assignment, reason, detail)
        except TransportError as error:
            log.warning("giving up %s: %s", assignment, error)

    # Remembering

    async def _served(self, work: Assignment, report: Report, outcome: str) -> None:
        self._ledger.served(work, report, outcome)
        await self._save()

    def _remember(self, task: str, version: int, report: Report) -> None:
        """A version's metrics, once; and that it is to be offered to local programs again."""
        if report.decision and report.decision.why in (Why.TOO_SOON, Why.LATER):
            self._life.offers[task] = self._now() + report.decision.wait
        if self._ledger.measured(task, version, report):
            self._life.evaluated[task] = version

    async def _save(self) -> None:
        await self._ledger.save(self._life.evaluated, self._life.failed)

    def _now_doing(self, doing: str, why: str) -> None:
        if (doing, why) == (self._doing, self._why):
            return
        if (doing, _code(why)) != (self._doing, _code(self._why)):
            self._since = self._now()
        self._doing, self._why = doing, why
        self._tell(f"{doing}: {why}")

    def _now(self) -> float:
        return self._clock.monotonic()


def _code(why: str) -> str:
    """What stays the same of a reason while the figures in it change."""
    return why.partition(":")[0]
