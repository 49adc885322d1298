"""The agent: the asyncio shell around `lifecycle.Life`. Gathers facts, acts, feeds back.

Nothing is connected while it trains. Cancelling `run` stops the child, closes the connection and
leaves the outbox as it is: an update waits there until the coordinator has acknowledged it.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from edge_agent.cache import Cache
from edge_agent.child import start_child
from edge_agent.config import Config
from edge_agent.eligibility import Verdict, judge
from edge_agent.errors import Rejected, TransportError
from edge_agent.job import Job, Outcome, Report
from edge_agent.lifecycle import CheckInNow, Evaluate, Life, Rest, Train, Upload
from edge_agent.platform import Platform, facts
from edge_agent.state import Identity, Served, StateFolder
from edge_agent.status import Status
from edge_agent.transport import Transport
from schedules.clock import Clock
from wire import PROTOCOL_VERSIONS
from wire.digest import digest_of
from wire.messages import Assignment, CheckIn, Evaluation, GiveUp, Published

log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5  # between two looks at the signals while training


class RunningJob(Protocol):
    """A job that runs somewhere: `edge_agent.child.Child` is one in a process of its own."""

    async def report(self) -> Report:
        """Wait for its end."""

    async def stop(self, why: Outcome) -> None:
        """End it."""


StartJob = Callable[[Job, float], AbstractAsyncContextManager[RunningJob]]


class Agent:
    """One device's agent."""

    def __init__(
        self,
        config: Config,
        state: StateFolder,
        identity: Identity,
        clock: Clock,
        start_job: StartJob = start_child,
    ) -> None:
        self._config = config
        self._state = state
        self._identity = identity
        self._clock = clock
        self._start_job = start_job
        self._platform = Platform(Path(config.system_root))
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
        self._working: dict[str, tuple[Assignment, Report]] = {}
        self._verdict = Verdict(())
        self._doing, self._why, self._since = "starting", "", clock.monotonic()

    async def run(self) -> None:
        """Live until cancelled."""
        while True:
            action = await self._next()
            if isinstance(action, Rest):
                self._now_doing("waiting", action.why)
                await asyncio.sleep(action.seconds)
            else:
                await self._act(action)

    async def once(self) -> Verdict:
        """Check in now and do what there is to do; returns the verdict it was done under."""
        await self.look()
        await asyncio.sleep(1.0)  # the load is that between two looks
        verdict = await self.look()
        self._life.check_in_at = self._now()
        checked_in = False
        while not isinstance(action := await self._next(), Rest):
            if isinstance(action, CheckInNow):
                if checked_in:
                    break
                checked_in = True
            await self._act(action)
        return verdict

    async def look(self) -> Verdict:
        """The verdict on this moment; a change of it is logged, once."""
        readings = await asyncio.to_thread(self._platform.read)
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

    async def _next(self) -> Upload | Train | Evaluate | CheckInNow | Rest:
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
                self._life.checked_in(reply, self._now(), self._random.random())
                if reply.assignment:
                    await self._fetch(transport, reply.assignment)
        except TransportError as error:
            log.warning("check-in: %s", error)
            self._life.not_reached(error, self._now(), self._random.random())
            return
        self._history.evaluations = self._history.evaluations[len(evaluations) :]
        models = {m.model for m in reply.published}
        plans = {m.plan for m in reply.published}
        if reply.assignment:
            plans.add(reply.assignment.plan)
            models.add(reply.assignment.model)
            log.info("assigned: %s round %d", reply.assignment.task, reply.assignment.round)
        await asyncio.to_thread(self._cache.keep_only, plans, models)

    async def _train(self, assignment: Assignment) -> None:
        self._now_doing("training", f"{assignment.task} round {assignment.round}")
        report = await self._work(
            self._job(assignment.task, assignment.plan, assignment.model, assignment.version),
            assignment,
        )
        self._remember_metrics(assignment.task, assignment.version, report)
        self._life.worked(assignment.id, report.outcome, self._now(), self._random.random())
        if report.outcome is Outcome.DONE:
            self._working[assignment.id] = (assignment, report)
        elif report.outcome is not Outcome.PREEMPTED:
            await self._give_up(assignment, report)

    async def _evaluate(self, published: Published) -> None:
        self._now_doing("evaluating", f"{published.task} version {published.version}")
        try:
            async with self._connect() as transport:
                await self._cache.fetch(transport, published.plan, published.model)
        except TransportError as error:
            log.warning("model of %s: %s", published.task, error)
            self._life.not_reached(error, self._now(), self._random.random())
            return
        job = self._job(published.task, published.plan, published.model, published.version)
        report = await self._work(job, None)
        if report.outcome is not Outcome.PREEMPTED:
            # Also when it failed: this version will not do better the next time.
            self._life.measured(
                published.task, published.version, self._now(), self._random.random()
            )
        self._remember_metrics(published.task, published.version, report)

    async def _work(self, job: Job, assignment: Assignment | None) -> Report:
        """Run a job while the device is eligible and there is time."""
        limit = self._now() + self._config.training.time_limit
        if assignment:
            limit = min(limit, self._life.deadline)
            update = str(self._state.update_path(assignment.id))
            job = msgspec.structs.replace(job, assignment=assignment, update=update)
        async with self._start_job(job, self._config.training.grace) as child:
            while True:
                try:
                    async with asyncio.timeout(_WATCH_SECONDS):
                        report = await child.report()
                        break
                except TimeoutError:
                    pass
                if self._now() >= limit:
                    await child.stop(Outcome.OUT_OF_TIME)
                elif not (await self.look()).eligible:
                    await child.stop(Outcome.PREEMPTED)
        detail = f": {report.detail}" if report.detail else ""
        log.info("%s: %s%s", "training" if assignment else "evaluation", report.outcome, detail)
        return report

    async def _upload(self, assignment: str) -> None:
        self._now_doing("uploading", assignment)
        path = self._state.update_path(assignment)
        data = await asyncio.to_thread(path.read_bytes)
        try:
            async with self._connect() as transport:
                await transport.upload(assignment, data, digest_of(data))
        except TransportError as error:
            log.warning("upload: %s", error)
            if self._life.not_uploaded(error, self._now(), self._random.random()):
                return
            code = error.code if isinstance(error, Rejected) else "offline"
            await self._delivered(assignment, code, str(error), len(data))
            return
        await self._delivered(assignment, "accepted", "", len(data))

    async def _delivered(self, assignment: str, outcome: str, detail: str, size: int) -> None:
        """The coordinator has answered for good: only now is the update forgotten."""
        self._life.uploaded(self._now())
        log.info("update of %s: %s", assignment, outcome)
        work, report = self._working.pop(assignment, (None, None))
        self._history.add(
            Served(
                task=work.task if work else assignment,
                round=work.round if work else 0,
                outcome=outcome,
                detail=detail,
                examples=report.examples if report else 0,
                loss=report.loss if report else None,
                seconds=report.seconds if report else 0.0,
                bytes_up=size,
                ended=self._clock.now().isoformat(timespec="seconds"),
            )
        )
        await asyncio.to_thread(self._state.update_path(assignment).unlink, missing_ok=True)
        await self._save()

    async def _give_up(self, assignment: Assignment, report: Report) -> None:
        """Tell the coordinator, so that it may ask another device. If it cannot be told, the
        deadline will."""
        self._history.add(
            Served(
                task=assignment.task,
                round=assignment.round,
                outcome=str(report.outcome),
                detail=report.detail,
                examples=report.examples,
                loss=None,
                seconds=report.seconds,
                bytes_up=0,
                ended=self._clock.now().isoformat(timespec="seconds"),
            )
        )
        await self._save()
        try:
            async with self._connect() as transport:
                why = GiveUp(reason=str(report.outcome), detail=report.detail[:500])
                await transport.give_up(assignment.id, why)
        except TransportError as error:
            log.warning("giving up %s: %s", assignment.id, error)

    # Plumbing

    async def _fetch(self, transport: Transport, assignment: Assignment) -> None:
        self._now_doing("fetching", f"{assignment.task} round {assignment.round}")
        await self._cache.fetch(transport, assignment.plan, assignment.model)

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
        self._history.evaluated = dict(self._life.evaluated)
        await asyncio.to_thread(self._state.save_history, self._history)

    def _now_doing(self, doing: str, why: str) -> None:
        if (doing, why) != (self._doing, self._why):
            self._doing, self._why, self._since = doing, why, self._now()

    def _now(self) -> float:
        return self._clock.monotonic()
