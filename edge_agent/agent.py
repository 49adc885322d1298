"""The agent: the asyncio shell around `lifecycle.Life`. Gathers facts, acts, feeds back.

Nothing is connected while it trains. Cancelling `run` stops the child, closes the connection, saves
the history and leaves the outbox as it is: an update waits there until the coordinator has
acknowledged it.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec

from edge_agent.cache import Cache
from edge_agent.child import start_child
from edge_agent.config import Config
from edge_agent.eligibility import Readings, Verdict, judge
from edge_agent.errors import AgentError, Rejected, StateError, TransportError
from edge_agent.job import Job, Outcome, Report
from edge_agent.lifecycle import (
    MEASURING_SECONDS,
    Action,
    CheckInNow,
    Evaluate,
    Life,
    Rest,
    Train,
    Upload,
)
from edge_agent.platform import Platform, facts
from edge_agent.state import Identity, Served, StateFolder
from edge_agent.status import Status
from edge_agent.transport import Transport
from schedules.clock import Clock
from wire import PROTOCOL_VERSIONS
from wire.digest import digest_of
from wire.messages import Assignment, CheckIn, Evaluation, GiveUp, Published

log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5  # between two looks at the signals while training, at most


class RunningJob(Protocol):
    """A job that runs somewhere: `edge_agent.child.Child` is one in a process of its own."""

    async def report(self) -> Report:
        """Wait for its end."""

    async def stop(self, why: Outcome) -> None:
        """End it."""


class Observer(Protocol):
    """What reads the signals: `edge_agent.platform.Platform` does on this machine."""

    def read(self) -> Readings:
        """All readings now. May block."""


StartJob = Callable[[Job, float], AbstractAsyncContextManager[RunningJob]]


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
    """One device's agent."""

    def __init__(
        self,
        config: Config,
        state: StateFolder,
        identity: Identity,
        clock: Clock,
        start_job: StartJob = start_child,
        observer: Observer | None = None,
    ) -> None:
        self._config = config
        self._state = state
        self._identity = identity
        self._clock = clock
        self._start_job = start_job
        self._observer = observer or Platform(Path(config.system_root))
        self._cache = Cache(state)
        self._history = state.history()
        self._facts = facts()
        self._random = random.Random()  # noqa: S311 - spreads load, guards nothing
        spread = self._random.random() * min(30.0, config.timing.check_in / 2)
        self._life = Life(
            poll=config.poll,
            interval=config.timing.check_in,
            check_in_at=clock.monotonic() + spread,
            evaluated=dict(self._history.evaluated),
        )
        self._verdict = Verdict(())
        self._doing, self._why, self._since = "starting", "", clock.monotonic()

    async def run(self) -> None:
        """Live until cancelled."""
        try:
            while True:
                if rest := await self.step():
                    await asyncio.sleep(rest.seconds)
        finally:
            await self._save()

    async def step(self) -> Rest | None:
        """Do the next thing; returns the rest that is due when there is nothing to do."""
        action = await self._next()
        if isinstance(action, Rest):
            self._now_doing("waiting", action.why)
            return action
        await self._act(action)
        return None

    async def once(self) -> Errand:
        """Check in now and do what there is to do."""
        verdict = await self.look()
        if verdict.measuring:
            await asyncio.sleep(MEASURING_SECONDS)
            verdict = await self.look()
        self._life.check_in_at = self._now()
        served, evaluated = self._history.served, dict(self._life.evaluated)
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
        return Errand(verdict, tuple(did), why, self._life.failing)

    async def look(self) -> Verdict:
        """The verdict on this moment; a change of it is logged, once."""
        readings = await asyncio.to_thread(self._observer.read)
        verdict = judge(readings, self._config, self._clock.now())
        if [s.code for s in verdict.signals] != [s.code for s in self._verdict.signals]:
            log.info("eligibility: %s", verdict.why())
        self._verdict = verdict
        return verdict

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
        )

    # Acting

    async def _next(self) -> Action:
        verdict = await self.look()
        outbox = await asyncio.to_thread(self._state.waiting)
        return self._life.next(self._now(), verdict, outbox)

    async def _act(self, action: Upload | Train | Evaluate | CheckInNow) -> None:
        match action:
            case Upload():
                await self._upload(action.assignment)
            case Train():
                await self._train(action.assignment)
            case Evaluate():
                await self._evaluate(action.published)
            case CheckInNow():
                await self._check_in()

    async def _check_in(self) -> None:
        self._now_doing("checking in", self._identity.url)
        data = self._config.data
        evaluations = tuple(self._history.evaluations)
        message = CheckIn(
            protocols=PROTOCOL_VERSIONS,
            facts=self._facts,
            tasks=None if data.folder else tuple(data.tasks),
            evaluations=evaluations,
        )
        try:
            async with self._connect() as transport:
                reply = await transport.check_in(message)
                log.debug("check-in: %s", reply)
                self._history.evaluations = self._history.evaluations[len(evaluations) :]
                self._life.checked_in(reply, self._now(), self._random.random())
                if work := reply.assignment:
                    log.info("assigned: %s round %d", work.task, work.round)
                    self._now_doing("fetching", f"{work.task} round {work.round}")
                    await self._fetch(transport, work.plan, work.model)
        except TransportError as error:
            log.warning("check-in: %s", error)
            self._life.not_reached(error, self._now(), self._random.random())
            return
        wanted = [w for w in (reply.assignment, *reply.published) if w]
        plans, models = {w.plan for w in wanted}, {w.model for w in wanted}
        try:
            await asyncio.to_thread(self._cache.keep_only, plans, models)
        except (OSError, AgentError) as error:
            log.warning("old plans and models stay: %s", error)

    async def _fetch(self, transport: Transport, plan: str, model: str) -> bool:
        """Have a plan and a model. False when they cannot be had: their work is put off."""
        try:
            await self._cache.fetch(transport, plan, model)
        except AgentError as error:
            log.warning("fetching: %s", error)
            self._life.not_fetched(error, self._now(), self._random.random())
            return False
        self._life.fetched()
        return True

    async def _train(self, assignment: Assignment) -> None:
        self._now_doing("training", f"{assignment.task} round {assignment.round}")
        report = await self._work(
            self._job(assignment.task, assignment.plan, assignment.model, assignment.version),
            assignment,
        )
        self._remember_metrics(assignment.task, assignment.version, report)
        self._life.worked(report.outcome, self._now(), self._random.random())
        if report.outcome is Outcome.PREEMPTED:
            return
        done = report.outcome is Outcome.DONE
        self._history.add(
            Served(
                assignment=assignment.id,
                task=assignment.task,
                round=assignment.round,
                outcome="waiting" if done else str(report.outcome),
                detail="" if done else report.detail,
                examples=report.examples,
                loss=report.loss,
                seconds=report.seconds,
                ended=self._today(),
            )
        )
        await self._save()
        if not done:
            await self._give_up(assignment, report)

    async def _evaluate(self, published: Published) -> None:
        self._now_doing("evaluating", f"{published.task} version {published.version}")
        async with self._connect() as transport:
            if not await self._fetch(transport, published.plan, published.model):
                return
        job = self._job(published.task, published.plan, published.model, published.version)
        report = await self._work(job, None)
        if report.outcome is not Outcome.PREEMPTED:
            # Also when it failed: this version will not do better the next time.
            self._life.measured(
                published.task, published.version, self._now(), self._random.random()
            )
        self._remember_metrics(published.task, published.version, report)
        await self._save()

    async def _work(self, job: Job, assignment: Assignment | None) -> Report:
        """Run a job while the device is eligible and there is time."""
        limit = self._now() + self._config.training.time_limit
        if assignment:
            limit = min(limit, self._life.deadline)
            update = str(self._state.update_path(assignment.id))
            job = msgspec.structs.replace(job, assignment=assignment, update=update)
        try:
            async with self._start_job(job, self._config.training.grace) as child:
                report = await self._watch(child, limit)
        except OSError as error:
            report = Report(outcome=Outcome.CRASHED, detail=f"it cannot be started: {error}")
        if report.outcome is Outcome.BAD_PLAN:
            # A file may have gone bad on the disk: everything is fetched anew, and proved.
            await asyncio.to_thread(self._cache.keep_only, set(), set())
        detail = f": {report.detail}" if report.detail else ""
        log.info("%s: %s%s", "training" if assignment else "evaluation", report.outcome, detail)
        return report

    async def _watch(self, child: RunningJob, limit: float) -> Report:
        """Wait for the end of a job; bring it about when the device is wanted, or time is up."""
        while True:
            try:
                async with asyncio.timeout(min(_WATCH_SECONDS, self._config.poll)):
                    return await child.report()
            except TimeoutError:
                pass
            if self._now() >= limit:
                await child.stop(Outcome.OUT_OF_TIME)
            elif not (await self.look()).eligible:
                await child.stop(Outcome.PREEMPTED)

    async def _upload(self, assignment: str) -> None:
        self._now_doing("uploading", assignment)
        data = await asyncio.to_thread(self._state.update, assignment)
        outcome, detail = "accepted", ""
        try:
            async with self._connect() as transport:
                await transport.upload(assignment, data, digest_of(data))
        except TransportError as error:
            log.warning("upload: %s", error)
            keep = self._life.not_uploaded(error, self._now(), self._random.random())
            if keep or not isinstance(error, Rejected):
                return
            outcome, detail = error.code, error.detail
        # The coordinator has answered for good: only now is the update forgotten.
        log.info("update of %s: %s", assignment, outcome)
        self._life.uploaded(assignment, self._now())
        self._history.settle(assignment, outcome, detail, len(data), self._today())
        await asyncio.to_thread(self._state.update_path(assignment).unlink, missing_ok=True)
        await self._save()

    async def _give_up(self, assignment: Assignment, report: Report) -> None:
        """Tell the coordinator, so that it may ask another device. If it cannot be told, the
        deadline will."""
        try:
            async with self._connect() as transport:
                why = GiveUp(reason=str(report.outcome), detail=report.detail[:500])
                await transport.give_up(assignment.id, why)
        except TransportError as error:
            log.warning("giving up %s: %s", assignment.id, error)

    # Plumbing

    def _job(self, task: str, plan: str, model: str, version: int) -> Job:
        return Job(
            plan=str(self._cache.plan(plan)),
            model=str(self._cache.model(model)),
            examples=str(self._config.data.folder_of(task)),
            columns=self._config.data.columns,
            hold_out=self._config.data.hold_out,
            threads=self._config.training.threads,
            evaluate=version > self._life.evaluated.get(task, -1),
        )

    def _remember_metrics(self, task: str, version: int, report: Report) -> None:
        if report.metrics is None or report.held_out == 0:
            return
        self._life.evaluated[task] = version
        self._history.evaluations.append(
            Evaluation(task=task, version=version, examples=report.held_out, metrics=report.metrics)
        )
        del self._history.evaluations[:-100]

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Transport]:
        """A connection for one errand; its bytes are counted, whether it succeeds or not."""
        transport = Transport.of(self._identity)
        try:
            async with transport:
                yield transport
        finally:
            self._history.bytes_up += transport.bytes_up
            self._history.bytes_down += transport.bytes_down

    async def _save(self) -> None:
        """Keep the history. Work goes on without: a full disk is not a reason to stop."""
        self._history.evaluated = dict(self._life.evaluated)
        try:
            await asyncio.to_thread(self._state.save_history, self._history)
        except StateError as error:
            log.error("%s", error)

    def _now_doing(self, doing: str, why: str) -> None:
        if (doing, why) != (self._doing, self._why):
            self._doing, self._why, self._since = doing, why, self._now()

    def _today(self) -> str:
        return self._clock.now().isoformat(timespec="seconds")

    def _now(self) -> float:
        return self._clock.monotonic()
