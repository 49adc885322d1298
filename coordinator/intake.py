"""Intake: complete updates are decoded, checked, made durable and summed, in batches.

    queue -> decode and check -> one transaction for the batch -> acknowledge -> sum

The queue is bounded, by number and by bytes. Runners share it, so that one batch is decoded or
summed while another's bytes go to the disk. Only what is durable is acknowledged; what is durable
counts, acknowledged or not, and a device that asks again hears "accepted".
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from coordinator import lateness
from coordinator.aggregation import Contribution
from coordinator.errors import Conflict, CoordinatorError, Refused, Unavailable
from coordinator.round import Arrival
from coordinator.services import Services
from coordinator.store import assignments
from coordinator.store.assignments import Arrived
from coordinator.store.records import AssignmentRecord
from coordinator.store.sql import StoreUnavailable
from coordinator.tally import Summed
from coordinator.task import Task
from systemd.journal import fields
from wire.digest import verify
from wire.errors import Rule, WireError
from wire.update import read

log = logging.getLogger(__name__)

_WAITING = 256  # updates that wait, at most; whoever comes then waits to wait
_BATCH = 32
_BATCH_BYTES = 8 << 20  # of its updates, decoded
_RUNNERS = 3
_PATIENCE = 20.0  # for the next round to open; a device waits for an answer a little longer
_LOOK_AGAIN = 0.05
_FROM_THE_START = {"Upload-Offset": "0"}


@dataclass(eq=False)
class _Job:
    """A complete upload. Its bytes are in memory, or in its part when `data` is `None`."""

    row: AssignmentRecord
    base: str
    digest: str
    data: bytes | None
    done: asyncio.Future[Arrival]
    since: float
    arrived: Arrived | None = None
    opened: Contribution | None = None
    error: Exception | None = None


class Intake:
    """One task's. `run` is its work; `submit` waits for it."""

    def __init__(self, services: Services, task: Task) -> None:
        self._services = services
        self._task = task
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Semaphore(_WAITING)
        self._most = max(1, min(_BATCH, _BATCH_BYTES // task.upload_limit))

    async def submit(
        self, row: AssignmentRecord, base: str, digest: str, data: bytes | None
    ) -> None:
        """The upload `digest` of an assignment whose model is `base` is complete. Returns when it
        counts, durably.

        Raises `Refused` for good when it breaks a rule; `Conflict` when it is late, or when the
        bytes are not those that were announced; `Unavailable` when the disk does not take it.
        """
        async with self._room:
            loop = asyncio.get_running_loop()
            job = _Job(row, base, digest, data, loop.create_future(), loop.time())
            self._jobs.append(job)
            self._arrived.set()
            arrival = await job.done
        if arrival is Arrival.DUPLICATE:
            self._services.metrics.updates.labels(self._task.name, "duplicate").inc()
        if arrival is Arrival.LATE:
            await lateness.note(self._services, self._task.name, row.id)
            raise Conflict("late", "the round has closed without this update")

    @property
    def waiting(self) -> int:
        """Updates in the queue."""
        return len(self._jobs)

    async def run(self) -> None:
        """Work until cancelled; then whoever waits in the queue is told to come back."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(_RUNNERS):
                    group.create_task(self._run(), name=f"intake {number} of {self._task.name}")
        finally:
            _fail(self._jobs, _stopping())

    async def _run(self) -> None:
        while True:
            while not self._jobs:
                self._arrived.clear()
                await self._arrived.wait()
            batch = [self._jobs.popleft() for _ in range(min(self._most, len(self._jobs)))]
            try:
                await self._take(batch)
            except (CoordinatorError, StoreUnavailable) as error:
                _fail(batch, error)
            except Exception as error:
                # Whoever waits hears of it; the next batch may fare better.
                log.exception("task %s: a batch of updates failed", self._task.name)
                _fail(batch, error)
            except BaseException:
                _fail(batch, _stopping())
                raise

    async def _take(self, jobs: list[_Job]) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._services.hand, self._open_all, jobs)
        good = [job for job in jobs if job.error is None]
        if good:
            await self._accept(good)
        for job in jobs:
            if job.error is not None:
                await self._refuse(job)

    def _open_all(self, jobs: list[_Job]) -> None:
        """Blocking: decode and check each, or say what is wrong with it."""
        for job in jobs:
            try:
                self._open(job)
            except (WireError, CoordinatorError, OSError) as error:
                job.error = error

    def _open(self, job: _Job) -> None:
        """Raises `WireError` when an update breaks a rule, `CoordinatorError` or `OSError` when its
        bytes cannot be had."""
        task = self._task
        if job.data is None:
            job.data = self._services.parts.read(job.row.id, job.digest)
        else:
            verify(job.data, job.digest)
        update = read(job.data, task.manifest.parameters, task.file.upload.codec)
        header = update.header
        if (header.assignment, header.plan, header.base) != (
            *(job.row.id, task.record.plan, job.base),
        ):
            raise WireError(
                Rule.WRONG_BASE, "made for another assignment, from another plan or another model"
            )
        job.opened = Contribution(update.delta, header.examples, header.steps, 0)
        task.aggregator.check(job.opened)
        job.arrived = Arrived(
            job.row.id, job.data, job.digest, header.examples, header.steps, header.loss
        )

    async def _refuse(self, job: _Job) -> None:
        error = job.error
        if not isinstance(error, WireError):
            assert error is not None
            _settle(job, error)
            return
        if error.code is Rule.BAD_DIGEST:
            await asyncio.to_thread(self._services.parts.drop, job.row.id)
            _settle(job, Conflict("restart_upload", error.detail, _FROM_THE_START))
            return
        try:
            await refuse(self._services, self._task, job.row.id, error)
        except CoordinatorError as failure:
            _settle(job, failure)
        else:
            _settle(job, Refused(str(error.code), error.detail))

    async def _accept(self, jobs: list[_Job]) -> None:
        task, services = self._task, self._services
        arrived = [job.arrived for job in jobs if job.arrived is not None]
        async with task.tally.lock:
            now = services.store.now()
            accepted = await services.store.run(
                assignments.accept, task.terms, arrived, services.node, now
            )
            counted = [
                Summed(job.row.id, job.opened._replace(staleness=staleness))
                for job, (arrival, staleness) in zip(jobs, accepted.arrivals, strict=True)
                if arrival is Arrival.COUNTS and job.opened is not None
            ]
            task.saw(accepted.round)
            if accepted.round.due(now) or accepted.round.arrived == len(counted):
                task.told.set()
            deadline = accepted.round.deadline
            for _ in counted:
                services.metrics.arrived(task.name, "accepted", now - (deadline or now))
            # They are durable: nobody has to wait for the sum, but for whoever takes the lock.
            for job, (arrival, _) in zip(jobs, accepted.arrivals, strict=True):
                if arrival is Arrival.WAIT:
                    self._again(job)
                else:
                    _settle(job, arrival)
            number = accepted.round.number
            summed = task.tally.start(number, counted, services.hand) if counted else None
        if summed is not None:  # no runner has more than one batch in memory
            await summed

    def _again(self, job: _Job) -> None:
        """The round is closing: this one counts in the next."""
        job.opened = None  # it is decoded anew: many may wait
        loop = asyncio.get_running_loop()
        if loop.time() - job.since > _PATIENCE:
            _settle(job, Unavailable("closing", "the round is closing: try again in a minute"))
            return

        def back() -> None:
            self._jobs.append(job)
            self._arrived.set()

        loop.call_later(_LOOK_AGAIN, back)


async def refuse(services: Services, task: Task, assignment: str, error: WireError) -> None:
    """An update breaks a rule: it is refused for good, its device's place is free again."""
    log.warning(
        "task %s: update of %s refused: %s: %s",
        *(task.name, assignment, error.code, error.detail),
        extra=fields(TASK=task.name, ROUND=task.round.number, REASON=error.code),
    )
    services.metrics.refusals.labels(task.name, str(error.code)).inc()
    await drop(services, task, assignment, "refused", str(error.code), error.detail)


async def drop(
    services: Services, task: Task, assignment: str, state: str, reason: str, detail: str
) -> None:
    """A device at work will not deliver."""
    now = services.store.now()
    after = await services.store.run(
        assignments.drop, task.terms, assignment, state, reason, detail, now
    )
    if after is not None:
        task.saw(after)  # its place is free: the next device that asks here is to know
        services.metrics.updates.labels(task.name, state).inc()
    await asyncio.to_thread(services.parts.drop, assignment)


def _settle(job: _Job, outcome: Arrival | Exception) -> None:
    if job.done.done():  # the request was given up meanwhile
        return
    if isinstance(outcome, Exception):
        job.done.set_exception(outcome)
    else:
        job.done.set_result(outcome)


def _stopping() -> Unavailable:
    return Unavailable("stopping", "the coordinator stops: try again")


def _fail(batch: Iterable[_Job], error: Exception) -> None:
    for job in batch:
        _settle(job, error)
