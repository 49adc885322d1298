"""A running task: the shell around its round. Feeds it facts, does what it decides, journals both.

Order of events, and what survives a crash after each:

1. A device is assigned: the place is journalled before the device hears of it.
2. Its update arrives: spooled and synced, decoded and checked, journalled as accepted, folded into
   the sum, acknowledged. After the journal entry it counts, acknowledged or not; a device that
   asks again hears "accepted".
3. The round ends: the new model's blob is made durable, then one transaction ends the round,
   publishes the model and opens the next round. Before it, a restart replays the spool and ends
   the round again; after it, the spool is swept.

One lock a task orders accepting and closing, so a round closes with exactly what is journalled.
"""

import asyncio
import logging
import secrets
import sqlite3
from dataclasses import dataclass
from datetime import datetime

import msgspec

from coordinator.aggregation import RunningSum
from coordinator.credentials import new_id
from coordinator.errors import Conflict, Refused, TooLarge, Unavailable
from coordinator.metrics import Metrics
from coordinator.round import Arrival, Ending, Phase, Reason, Round, RoundPolicy
from coordinator.store.blobs import BlobStore
from coordinator.store.database import Database
from coordinator.store.records import AssignmentRecord, RoundRecord, TaskRecord
from coordinator.store.spool import Spool
from coordinator.store.worker import Worker
from coordinator.taskfile import TaskFile
from schedules.backoff import Backoff
from schedules.clock import Clock
from wire import checkpoint
from wire.digest import verify
from wire.errors import Rule, WireError
from wire.messages import Assignment, GiveUp, Published, UploadState, WaitReason
from wire.plan import Manifest
from wire.update import Update, read, size_limit

log = logging.getLogger(__name__)

_STORE_BACKOFF = Backoff(first=1.0, limit=60.0)


@dataclass(frozen=True)
class Services:
    """What every running task shares."""

    database: Database
    blobs: BlobStore
    spool: Spool
    worker: Worker
    clock: Clock
    metrics: Metrics

    def wall(self) -> float:
        """Now, in seconds since the epoch."""
        return self.clock.now().timestamp()


class RunningTask:
    """One task. Made by `resume`, which also brings back an interrupted round."""

    def __init__(
        self, services: Services, record: TaskRecord, task: TaskFile, manifest: Manifest
    ) -> None:
        self.record = record
        self.task = task
        self.timing = task.timing
        self.manifest = manifest
        self.upload_limit = size_limit(manifest.parameters, task.upload.codec)
        self.model: Published
        self.round: Round
        self._policy = RoundPolicy(
            goal=task.round.goal,
            minimum=task.round.minimum,
            deadline=task.deadline,
            over_selection=task.round.over_selection,
        )
        self._opened: RoundRecord
        self._sum: RunningSum
        self._services = services
        self._call = services.worker.call
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def running(self) -> bool:
        """Whether rounds go on."""
        return self.record.state == "running"

    # Starting

    @classmethod
    async def resume(
        cls, services: Services, record: TaskRecord, task: TaskFile, manifest: Manifest
    ) -> "RunningTask":
        """The task as the store has it, with the updates of an interrupted round folded in."""

        def load() -> RunningTask:
            running = cls(services, record, task, manifest)
            running._load()
            return running

        return await services.worker.call(load)

    def _load(self) -> None:
        """Blocking: rebuild the round and its sum from the journal and the spool."""
        model = self._services.database.models(self.name)[-1]
        self._publish(model.version, model.digest)
        self._begin(self._services.database.rounds(self.name, 1)[-1])
        for row in self._services.database.assignments(self.name, self.round.number):
            match row.state:
                case "working":
                    self.round.working[row.id] = row.device
                case "accepted":
                    self._replay(row)
                case _:
                    self.round.left[row.id] = row.device

    def _replay(self, row: AssignmentRecord) -> None:
        update = self._decode(self._services.spool.read(row.id))
        self._sum.add(update.delta, update.header.examples)
        self.round.arrived[row.id] = row.device

    def _begin(self, opened: RoundRecord) -> None:
        """Make the in-memory round of a journalled one; its clock goes on where it was."""
        self._opened = opened
        self._sum = RunningSum(self.manifest.parameters, self.task.aggregation.max_examples)
        self.round = Round(opened.number, self._policy)
        if opened.started is not None:
            gone = min(max(self._services.wall() - opened.started, 0.0), self._policy.deadline)
            self.round.started = self._services.clock.monotonic() - gone

    def _publish(self, version: int, digest: str) -> None:
        self.model = Published(task=self.name, version=version, plan=self.record.plan, model=digest)
        self._services.metrics.version.labels(self.name).set(version)

    # What devices do

    async def offer(self, device: str, now: datetime) -> Assignment | WaitReason:
        """A place in the round for `device`, or why there is none.

        A device that already works gets the same assignment again: it lost the answer, or its
        memory, and may go on.
        """
        if not self.running:
            return WaitReason.TASK_DONE
        async with self._lock:
            held = self.round.held_by(device)
            if held:
                row = await self._call(self._services.database.assignment, held)
                assert row is not None
                return self._assignment(held, row.seed)
            if not self.timing.open_at(now):
                return WaitReason.WINDOW_CLOSED
            if refusal := self.round.refusal(device, self._now()):
                return refusal
            return await self._assign(device)

    async def _assign(self, device: str) -> Assignment:
        row = AssignmentRecord(
            id=new_id(self.name[:40]),
            task=self.name,
            round=self.round.number,
            device=device,
            seed=secrets.randbits(62),
            state="working",
            reason=None,
            detail=None,
            assigned=self._services.wall(),
            ended=None,
            length=None,
            digest=None,
            examples=None,
            loss=None,
        )
        await self._call(self._services.database.assign, row)
        first = self.round.started is None
        self.round.assign(row.id, device, self._now())
        if first:
            self._opened = msgspec.structs.replace(self._opened, started=row.assigned)
            self._wake.set()
        return self._assignment(row.id, row.seed)

    def _assignment(self, assignment: str, seed: int) -> Assignment:
        return Assignment(
            id=assignment,
            task=self.name,
            round=self.round.number,
            version=self.model.version,
            plan=self.record.plan,
            model=self.model.model,
            codec=self.task.upload.codec,
            deadline=self.round.remaining(self._now()),
            upload_limit=self.upload_limit,
            seed=seed,
        )

    async def announce(self, assignment: str, length: int, digest: str) -> UploadState:
        """An upload is about to start. Refused before a byte of it is sent when it is unwanted."""
        async with self._lock:
            if self._arrival(assignment) is Arrival.DUPLICATE:
                return UploadState.ACCEPTED
            if length > self.upload_limit:
                detail = f"an update of {length} bytes; this task takes {self.upload_limit} at most"
                await self._refuse(assignment, "too_large", detail)
                raise TooLarge("too_large", detail)
            row = await self._call(self._services.database.assignment, assignment)
            if row and row.digest not in (None, digest):
                # The device trained again and announces other bytes: what came of the old is void.
                await asyncio.to_thread(self._services.spool.drop, assignment)
            await self._call(self._services.database.announce, assignment, length, digest)
            return UploadState.INCOMPLETE

    async def submit(self, assignment: str) -> None:
        """The upload is complete: check it, make it count, and return when it does.

        Raises `Refused` for good when it breaks a rule, `Conflict` when it is late.
        """
        row = await self._call(self._services.database.assignment, assignment)
        assert row is not None
        assert row.digest is not None
        opened = await asyncio.to_thread(self._open, assignment, row.digest)
        async with self._lock:
            # Late comes first: what a closed round's update was made from is no longer known.
            if self._arrival(assignment) is not Arrival.COUNTS:
                return
            try:
                update = self._check(opened, assignment)
            except WireError as error:
                await self._refuse(assignment, str(error.code), error.detail)
                raise Refused(str(error.code), error.detail) from None
            await self._call(self._accept, assignment, update)
            self.round.count(assignment)
            self._services.metrics.updates.labels(self.name, "accepted").inc()
            self._wake.set()

    async def give_up(self, assignment: str, why: GiveUp) -> None:
        """The device will not deliver; its place is free again."""
        async with self._lock:
            if self.round.leave(assignment):
                await self._drop(assignment, "given_up", why.reason, why.detail)

    def _arrival(self, assignment: str) -> Arrival:
        arrival = self.round.arrival(assignment, self._now())
        if arrival in (Arrival.LATE, Arrival.UNKNOWN):
            self._services.metrics.updates.labels(self.name, "late").inc()
            raise Conflict("late", "the round has closed without this update")
        return arrival

    def _open(self, assignment: str, digest: str) -> Update | WireError:
        """Blocking: the upload made durable and decoded, or the rule that it breaks."""
        try:
            data = self._services.spool.seal(assignment)
            verify(data, digest)
            return self._decode(data)
        except FileNotFoundError:
            return WireError(Rule.TRUNCATED, "the upload is gone")
        except WireError as error:
            return error

    def _decode(self, data: bytes) -> Update:
        return read(data, self.manifest.parameters, self.task.upload.codec)

    def _check(self, opened: Update | WireError, assignment: str) -> Update:
        """The update, if it is what was asked for. Raises `WireError`."""
        if isinstance(opened, WireError):
            raise opened
        header = opened.header
        expected = (assignment, self.record.plan, self.model.model)
        if (header.assignment, header.plan, header.base) != expected:
            raise WireError(
                Rule.WRONG_BASE, "made for another assignment, from another plan or another model"
            )
        return opened

    def _accept(self, assignment: str, update: Update) -> None:
        """Blocking: journal and fold in, together in the store's thread."""
        header = update.header
        loss = header.loss if abs(header.loss) < float("inf") else 0.0
        self._services.database.accept(assignment, header.examples, loss, self._services.wall())
        self._sum.add(update.delta, header.examples)

    async def _refuse(self, assignment: str, code: str, detail: str) -> None:
        log.warning("task %s: update of %s refused: %s: %s", self.name, assignment, code, detail)
        if self.round.leave(assignment):
            await self._drop(assignment, "refused", code, detail)

    async def _drop(self, assignment: str, state: str, reason: str, detail: str) -> None:
        self._services.metrics.updates.labels(self.name, state).inc()
        await self._call(
            self._services.database.drop, assignment, state, reason, detail, self._services.wall()
        )
        await asyncio.to_thread(self._services.spool.drop, assignment)

    # The timer

    async def run(self) -> None:
        """Close each round at its goal or its deadline, until the task ends."""
        failures = 0
        while self.running:
            try:
                async with self._lock:
                    if ending := self.round.due(self._now()):
                        await self._end(ending)
                        continue
                failures = 0
            except (OSError, sqlite3.Error, Unavailable) as error:
                # A full or broken disk: the round stays as it is, nothing acknowledged is lost.
                failures += 1
                wait = _STORE_BACKOFF.delay(failures, 1.0)
                log.error(
                    "task %s: round not closed, next try in %.0f s: %s", self.name, wait, error
                )
                await asyncio.sleep(wait)
                continue
            await self._wait()

    async def _wait(self) -> None:
        """Until something arrives or the deadline passes."""
        deadline = self.round.deadline
        timeout = None if deadline is None else max(0.0, deadline - self._now())
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def stop(self) -> None:
        """End the task: its round is abandoned, its models stay."""
        async with self._lock:
            if self.running:
                await self._end(Ending(Phase.ABANDONED, Reason.STOPPED))
        self._wake.set()

    async def _end(self, ending: Ending) -> None:
        swept = [*self.round.working, *self.round.arrived]
        ended = await self._call(self._commit_end, ending)
        self.round.end(ending)
        self._services.metrics.rounds.labels(self.name, ended.reason).inc()
        if ended.started is not None and ended.ended is not None:
            seconds = ended.ended - ended.started
            self._services.metrics.round_seconds.labels(self.name).observe(seconds)
        log.info(
            "task %s: round %d %s (%s): %d updates, %d examples, model version %d",
            *(self.name, ended.number, ended.phase, ended.reason, ended.updates, ended.examples),
            self.model.version,
        )
        if self.running:
            self._begin((await self._call(self._services.database.rounds, self.name, 1))[-1])
        await asyncio.to_thread(self._sweep, swept)

    def _commit_end(self, ending: Ending) -> RoundRecord:
        """Blocking: the next model, durable; then the transaction that ends the round."""
        model = None
        if ending.phase is Phase.CLOSED:
            try:
                model = self._next_model()
            except WireError as error:
                log.error("task %s: round %d: %s", self.name, self.round.number, error)
                ending = Ending(Phase.ABANDONED, Reason.NOT_FINITE)
        version = self.model.version + (model is not None)
        state = self._state_after(ending, version)
        ended = msgspec.structs.replace(
            self._opened,
            phase=str(ending.phase),
            reason=str(ending.reason),
            ended=self._services.wall(),
            updates=self._sum.updates,
            examples=self._sum.weight,
        )
        self._services.database.end_round(ended, model, state, reopen=state == "running")
        self.record = msgspec.structs.replace(self.record, state=state)
        if model is not None:
            self._publish(version, model)
        return ended

    def _next_model(self) -> str:
        base = checkpoint.read(self._services.blobs.get(self.model.model), self.manifest.parameters)
        return self._services.blobs.put(checkpoint.write(self._sum.apply(base)))

    def _state_after(self, ending: Ending, version: int) -> str:
        if ending.reason is Reason.STOPPED:
            return "stopped"
        return "done" if 0 < self.task.round.rounds <= version else "running"

    def _sweep(self, assignments: list[str]) -> None:
        for assignment in assignments:
            self._services.spool.drop(assignment)

    # Plumbing

    def _now(self) -> float:
        return self._services.clock.monotonic()
