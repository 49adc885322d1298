"""Jobs on this device: what the training child is asked, how it is watched, and stopped in time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Protocol

import msgspec

from edge_agent.cache import Cache
from edge_agent.config import Config
from edge_agent.errors import StateError
from edge_agent.examples.retention import Retention
from edge_agent.job import Job, Outcome, Report
from edge_agent.keeping import Offer
from edge_agent.state import StateFolder
from schedules.clock import Clock, skew
from systemd.journal import fields
from wire.messages import Assignment, Published
from wire.plan import PERSONAL_NAME

log = logging.getLogger(__name__)

_TUNING_PART = 0.5
"""Of the time for an evaluation, at most: what takes longer must not cost the published model."""
_TOLERABLE_SKEW = 3600.0  # seconds that this device's clock may be wrong by


class RunningJob(Protocol):
    """A job that runs somewhere: `edge_agent.child.Child` is one in a process of its own."""

    @property
    def pid(self) -> int:
        """The process it runs in."""

    async def report(self) -> Report:
        """Wait for its end."""

    async def stop(self, why: Outcome) -> None:
        """End it in order."""


StartJob = Callable[[Job, float], AbstractAsyncContextManager[RunningJob]]
Refused = Callable[[float], Awaitable[Outcome]]
"""Returns why a job must end, once a signal says no or the clock says so many seconds."""


class Jobs:
    """Runs one job at a time."""

    def __init__(
        self,
        config: Config,
        state: StateFolder,
        cache: Cache,
        clock: Clock,
        start: StartJob,
        own_pids: set[int],
    ) -> None:
        """`own_pids` holds the ids of the processes that `start` has running."""
        self._config = config
        self._state = state
        self._cache = cache
        self._clock = clock
        self._start = start
        self._own_pids = own_pids
        self.told = ("", 0.0)
        """The coordinator's clock at the last check-in, as HTTP says it, and when that was on the
        monotonic clock."""

    async def train(
        self, work: Assignment, seconds: float, evaluate: bool, refused: Refused
    ) -> Report:
        """Train for an assignment within `seconds`; `evaluate` its model first."""
        job = msgspec.structs.replace(
            await asyncio.to_thread(self._job, work, evaluate),
            assignment=work,
            update=str(self._state.update_path(work.id)),
            checkpoint=str(self._state.checkpoint_path(work.id)),
            checkpoint_every=float(self._config.training.checkpoint_every),
            residuals=str(self._state.residuals),
            tuning_seconds=_TUNING_PART * seconds,
        )
        about = {"TASK": work.task, "ROUND": work.round}
        return await self._run(job, seconds, refused, about)

    def tunes(self, published: Published) -> bool:
        """Blocking: whether a model that was fetched is to be made this device's own."""
        return (self._cache.plan(published.plan) / PERSONAL_NAME).exists()

    async def evaluate(
        self, published: Published, seconds: float, refused: Refused, tune: bool = False
    ) -> Report:
        """Evaluate a published model within `seconds`; `tune`: make it this device's own as well,
        where its plan asks for that."""
        job = await asyncio.to_thread(self._job, published, evaluate=True)
        if tune:
            job = msgspec.structs.replace(job, tuning_seconds=_TUNING_PART * seconds)
        return await self._run(job, seconds, refused, {"TASK": published.task})

    def _job(self, work: Assignment | Published, evaluate: bool) -> Job:
        data, training = self._config.data, self._config.training
        return Job(
            plan=str(self._cache.plan(work.plan)),
            model=str(self._cache.model(work.model)),
            examples=str(data.folder_of(work.task)),
            columns=data.columns,
            hold_out=data.hold_out,
            threads=training.threads,
            memory_limit=None if training.max_memory is None else int(training.max_memory),
            evaluate=evaluate,
            retention=self._retention(),
            offer=self._offer(work) if evaluate else None,
        )

    def _retention(self) -> Retention:
        """What examples are kept. None is deleted for its age while the clock may be wrong: one
        that is ahead would make all of them old."""
        limits = self._config.data.retain.limits()
        if limits.age is None:
            return limits
        date, came = self.told
        then = self._clock.now() - timedelta(seconds=self._clock.monotonic() - came)
        if skew(date, then) <= min(_TOLERABLE_SKEW, limits.age / 10):
            return limits
        log.warning("nothing is deleted for its age: the coordinator's clock tells another time")
        return msgspec.structs.replace(limits, age=None)

    def _offer(self, work: Assignment | Published) -> Offer:
        """A model that local programs may want."""
        return Offer(
            folder=str(self._state.models / work.task),
            task=work.task,
            version=work.version,
            plan=work.plan,
            model=work.model,
            now=self._clock.now().isoformat(timespec="seconds"),
            every=float(self._config.models.every),
        )

    async def _run(
        self, job: Job, seconds: float, refused: Refused, about: dict[str, object]
    ) -> Report:
        """The report of a job that ends in time, by itself or not. `about`: fields of the log."""
        limit = self._clock.monotonic() + min(seconds, self._config.training.time_limit)
        try:
            async with self._start(job, self._config.training.grace) as child:
                self._own_pids.add(child.pid)
                try:
                    report = await self._watched(child, limit, refused)
                finally:
                    self._own_pids.clear()
        except OSError as error:
            report = Report(
                outcome=Outcome.CRASHED, detail=f"it cannot be started: {error.strerror}"
            )
        if report.outcome is Outcome.BAD_PLAN:
            # A file may have gone bad on the disk: everything is fetched anew, and proved.
            try:
                await asyncio.to_thread(self._cache.keep_only, set(), set())
            except StateError as error:
                log.warning("%s", error)
        detail = f": {report.detail}" if report.detail else ""
        if report.decision:
            log.info(
                "the model for local programs: %s", report.decision.detail, extra=fields(**about)
            )
        if report.trimmed:
            log.info("deleted %d examples, as data.retain says", report.trimmed)
        if report.restarted:
            log.info("a training that was kept cannot be gone on with: %s", report.restarted)
        if report.lost:
            log.info("what was not sent before is dropped: %s", report.lost)
        if report.forgot:
            log.info("what the last round left is dropped: %s", report.forgot)
        if report.nothing_new:
            log.info("the change does not matter yet: the update says that there is nothing new")
        if report.refused:
            log.warning("the system refuses the training child: %s", "; ".join(report.refused))
        doing = "training" if job.assignment else "evaluation"
        about = {**about, "REASON": report.outcome}
        log.info("%s: %s%s", doing, report.outcome, detail, extra=fields(**about))
        return report

    async def _watched(self, child: RunningJob, limit: float, refused: Refused) -> Report:
        """Wait for the end of a job; bring it about when the device is wanted, or time is up."""
        async with asyncio.TaskGroup() as group:
            reported = group.create_task(child.report())
            watching = group.create_task(_outcome(refused, limit))
            await asyncio.wait((reported, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await child.stop(watching.result())
            watching.cancel()
        return reported.result()


async def _outcome(refused: Refused, limit: float) -> Outcome:
    return await refused(limit)
