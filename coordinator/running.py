"""A running task: the shell around its round. Feeds it facts, does what it decides.

What is journalled, and in which order, is the ledger's: see `coordinator.ledger`. Locks: one for
each upload orders its bytes and its end; one for the task orders assigning, accepting and closing,
so that a round closes with exactly what is journalled. An upload's is always taken first.
"""

import asyncio
import logging
import secrets
import sqlite3
import weakref
from datetime import datetime

from coordinator.credentials import new_id
from coordinator.errors import Conflict, CoordinatorError, NotFound, Refused, TooLarge
from coordinator.ledger import Ledger, Recount, Services
from coordinator.round import Arrival, Ending, Phase, Reason, Round
from coordinator.store.records import AssignmentRecord, TaskRecord
from coordinator.taskfile import TaskFile
from schedules.backoff import Backoff
from systemd.journal import fields
from wire.digest import verify
from wire.errors import Rule, WireError
from wire.messages import Assignment, GiveUp, Published, UploadState, WaitReason
from wire.plan import Manifest
from wire.update import Update, read, size_limit

log = logging.getLogger(__name__)

_FROM_THE_START = {"Upload-Offset": "0"}
_STORE_BACKOFF = Backoff(first=1.0, limit=60.0)


class RunningTask:
    """One task. Made by `resume`, which also brings back an interrupted round."""

    def __init__(self, services: Services, ledger: Ledger, found: Round) -> None:
        self.task = ledger.task
        self.timing = ledger.task.timing
        self.manifest = ledger.manifest
        self.upload_limit = size_limit(self.manifest.parameters, self.task.upload.codec)
        self.round = found
        self._ledger = ledger
        self._services = services
        self._call = services.worker.call
        self._lock = asyncio.Lock()
        self._uploads = weakref.WeakValueDictionary[str, asyncio.Lock]()
        self._wake = asyncio.Event()

    @classmethod
    async def resume(
        cls, services: Services, record: TaskRecord, task: TaskFile, manifest: Manifest
    ) -> "RunningTask":
        """The task as the store has it, with the updates of an interrupted round folded in."""

        def load() -> RunningTask:
            ledger = Ledger(services, record, task, manifest)
            return cls(services, ledger, ledger.load())

        return await services.worker.call(load)

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def record(self) -> TaskRecord:
        """The task as last journalled."""
        return self._ledger.record

    @property
    def opened(self) -> float:
        """When the round began to wait for devices, in seconds since the epoch."""
        return self._ledger.opened

    @property
    def model(self) -> Published:
        """The newest model."""
        return self._ledger.model

    @property
    def running(self) -> bool:
        """Whether rounds go on."""
        return self.record.state == "running"

    # What devices do

    async def offer(self, device: str, now: datetime) -> Assignment | WaitReason:
        """A place in the round for `device`, or why there is none.

        A device that already works gets the same assignment again: it lost the answer, or its
        memory, and may go on.
        """
        async with self._lock:
            if not self.running:
                return WaitReason.TASK_DONE
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
        await self._call(self._ledger.assign, row)
        self.round.assign(row.id, device, self._now())
        self._wake.set()
        return self._assignment(row.id, row.seed)

    def _assignment(self, assignment: str, seed: int) -> Assignment:
        return Assignment(
            id=assignment,
            task=self.name,
            round=self.round.number,
            version=self.model.version,
            plan=self.model.plan,
            model=self.model.model,
            codec=self.task.upload.codec,
            deadline=self.round.remaining(self._now()),
            upload_limit=self.upload_limit,
            seed=seed,
        )

    async def give_up(self, assignment: str, why: GiveUp) -> None:
        """The device will not deliver; its place is free again."""
        async with self._upload(assignment), self._lock:
            await self._drop(assignment, "given_up", why.reason, why.detail)

    # Uploads

    async def announce(self, assignment: str, length: int, digest: str) -> UploadState:
        """An upload is about to start. Refused before a byte of it is sent when it is unwanted."""
        async with self._upload(assignment):
            if await self._arrival(assignment) is Arrival.DUPLICATE:
                return UploadState.ACCEPTED
            if length > self.upload_limit:
                detail = f"an update of {length} bytes; this task takes {self.upload_limit} at most"
                async with self._lock:
                    await self._refuse(assignment, Rule.TOO_LARGE, detail)
                raise TooLarge(str(Rule.TOO_LARGE), detail)
            row = await self._call(self._services.database.assignment, assignment)
            if row and (row.digest, row.length) != (digest, length):
                # The device trained again and announces other bytes: what came of the old is void.
                await asyncio.to_thread(self._services.spool.drop, assignment)
            await self._call(self._services.database.announce, assignment, length, digest)
            return UploadState.INCOMPLETE

    async def write(self, assignment: str, digest: str, offset: int, data: bytes) -> int:
        """Bytes of the upload `digest`, from `offset` on; returns the offset after them.

        Raises `Conflict` when they would leave a gap, when another upload was announced since, or
        when the update is late by now. What was accepted never changes: bytes that come after it
        are passed over.
        """
        async with self._upload(assignment):
            if await self._arrival(assignment) is Arrival.DUPLICATE:
                return offset + len(data)
            await self._check_announced(assignment, digest)
            return await asyncio.to_thread(self._services.spool.write, assignment, offset, data)

    async def submit(self, assignment: str, digest: str) -> None:
        """The upload `digest` is complete: check it, make it count, and return when it does.

        Raises `Refused` for good when it breaks a rule, `Conflict` as `write` does, or when the
        bytes here are not those that were announced: a power cut may have taken some.
        """
        async with self._upload(assignment), self._services.decoding:
            await self._check_announced(assignment, digest)
            opened = await asyncio.to_thread(self._open, assignment, digest)
            async with self._lock:
                # Late comes first: what a closed round's update was made from is no longer known.
                if await self._arrival(assignment) is Arrival.DUPLICATE:
                    return
                try:
                    update = self._check(opened, assignment)
                except WireError as error:
                    if error.code is Rule.BAD_DIGEST:
                        await asyncio.to_thread(self._services.spool.drop, assignment)
                        raise Conflict("restart_upload", error.detail, _FROM_THE_START) from None
                    await self._refuse(assignment, error.code, error.detail)
                    raise Refused(str(error.code), error.detail) from None
                await self._call(self._ledger.accept, assignment, update)
                self.round.count(assignment)
                self._services.metrics.updates.labels(self.name, "accepted").inc()
                self._wake.set()

    def _upload(self, assignment: str) -> asyncio.Lock:
        """The lock of one upload; it lives while somebody holds or awaits it."""
        return self._uploads.setdefault(assignment, asyncio.Lock())

    async def _check_announced(self, assignment: str, digest: str) -> None:
        row = await self._call(self._services.database.assignment, assignment)
        if row is None or row.digest != digest:
            raise Conflict("superseded", "another update was announced for this assignment")

    async def _arrival(self, assignment: str) -> Arrival:
        """COUNTS or DUPLICATE; raises `Conflict` when it is late. The round that took the update
        may be over by now."""
        arrival = self.round.arrival(assignment, self._now())
        if arrival is Arrival.UNKNOWN:
            row = await self._call(self._services.database.assignment, assignment)
            if row is None:
                raise NotFound("unknown_assignment", f"no assignment {assignment}: its device left")
            if row.state == "accepted":
                return Arrival.DUPLICATE
        if arrival in (Arrival.LATE, Arrival.UNKNOWN):
            self._services.metrics.updates.labels(self.name, "late").inc()
            raise Conflict("late", "the round has closed without this update")
        return arrival

    def _open(self, assignment: str, digest: str) -> Update | WireError:
        """Blocking: the upload made durable and decoded, or the rule that it breaks."""
        try:
            data = self._services.spool.seal(assignment)
            verify(data, digest)
            return read(data, self.manifest.parameters, self.task.upload.codec)
        except FileNotFoundError:
            return WireError(Rule.BAD_DIGEST, "the upload is gone")
        except WireError as error:
            return error

    def _check(self, opened: Update | WireError, assignment: str) -> Update:
        """The update, if it is what was asked for. Raises `WireError`."""
        if isinstance(opened, WireError):
            raise opened
        header = opened.header
        expected = (assignment, self.model.plan, self.model.model)
        if (header.assignment, header.plan, header.base) != expected:
            raise WireError(
                Rule.WRONG_BASE, "made for another assignment, from another plan or another model"
            )
        return opened

    async def _refuse(self, assignment: str, rule: Rule, detail: str) -> None:
        log.warning(
            "task %s: update of %s refused: %s: %s",
            *(self.name, assignment, rule, detail),
            extra=fields(TASK=self.name, ROUND=self.round.number, REASON=rule),
        )
        await self._drop(assignment, "refused", str(rule), detail)

    async def _drop(self, assignment: str, state: str, reason: str, detail: str) -> None:
        """Journalled first, so that a failing disk leaves the place as it was."""
        if assignment not in self.round.working or self.round.ending:
            return
        await self._call(
            self._services.database.drop, assignment, state, reason, detail, self._services.wall()
        )
        self.round.leave(assignment)
        self._services.metrics.updates.labels(self.name, state).inc()
        await asyncio.to_thread(self._services.spool.drop, assignment)

    # A device that leaves: see `coordinator.leaving`

    def still(self) -> asyncio.Lock:
        """While it is held, nobody gets a place, nothing is accepted and the round does not end."""
        return self._lock

    def recount_without(self, device: str) -> Recount | None:
        """Blocking, in the store's thread: the sum of the others' updates; `None` when the device
        has none in an open round."""
        if self.round.ending or device not in self.round.arrived.values():
            return None
        return self._ledger.recount([a for a, d in self.round.arrived.items() if d != device])

    def forget(self, device: str, recount: Recount | None) -> None:
        """The journal has forgotten the device: now the round and the sum do."""
        self.round.forget(device)
        if recount is None:
            return
        self._ledger.recounted(recount)
        for assignment in recount.lost:
            self.round.lose(assignment)

    # The timer

    async def run(self) -> None:
        """Close each round at its goal or its deadline, until the task ends."""
        failures = 0
        while self.running:
            try:
                await self._close_when_due()
                failures = 0
            except (OSError, sqlite3.Error, CoordinatorError, WireError) as error:
                # A full or broken disk: the round stays as it is, nothing acknowledged is lost.
                failures += 1
                wait = _STORE_BACKOFF.delay(failures, 1.0)
                log.error(
                    "task %s: round not closed, next try in %.0f s: %s", self.name, wait, error
                )
                await asyncio.sleep(wait)

    async def _close_when_due(self) -> None:
        async with self._lock:
            ending = self.round.due(self._now())
            done = await self._end(ending) if ending else []
        if ending:
            await self.sweep(done)
        else:
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
            done = await self._end(Ending(Phase.ABANDONED, Reason.STOPPED)) if self.running else []
        self._wake.set()
        await self.sweep(done)

    async def _end(self, ending: Ending) -> list[str]:
        """End the round, begin the next; returns the assignments that need their files no more."""
        done = [*self.round.working, *self.round.arrived]
        ended, following = await self._call(self._ledger.end, ending)
        self.round.end(Ending(Phase(ended.phase), Reason(str(ended.reason))))
        self._services.metrics.rounds.labels(self.name, ended.reason).inc()
        if ended.started is not None and ended.ended is not None:
            seconds = ended.ended - ended.started
            self._services.metrics.round_seconds.labels(self.name).observe(seconds)
        log.info(
            "task %s: round %d %s (%s): %d updates, %d examples, model version %d",
            *(self.name, ended.number, ended.phase, ended.reason, ended.updates, ended.examples),
            self.model.version,
            extra=fields(TASK=self.name, ROUND=ended.number, REASON=ended.reason),
        )
        if following is not None:
            self.round = following
        return done

    async def sweep(self, assignments: list[str]) -> None:
        """Delete what was uploaded for assignments that the round no longer knows."""
        for assignment in assignments:
            async with self._upload(assignment):
                await asyncio.to_thread(self._services.spool.drop, assignment)

    # Plumbing

    def _now(self) -> float:
        return self._services.clock.monotonic()
