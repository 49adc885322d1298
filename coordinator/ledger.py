"""A running task's blocking half: its journal, its running sum and its next model.

Used in the store's thread alone, so that what is journalled and what is summed never differ.
Order of events, and what survives a crash after each:

1. A device is assigned: the place is journalled before the device hears of it.
2. Its update arrives: spooled and synced, decoded and checked, journalled as accepted, folded into
   the sum, acknowledged. After the journal entry it counts, acknowledged or not; a device that
   asks again hears "accepted".
3. A device leaves: the sum is made anew of the others' updates, read from the spool, then one
   transaction forgets the device. What it had brought is not subtracted, which would leave a
   rounding error behind: the new sum is, bit for bit, what it had been without that device.
4. The round ends: the new model's blob is made durable, then one transaction ends the round,
   publishes the model and opens the next round. Before it, a restart replays the spool and ends
   the round again; after it, the spool is swept.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from coordinator.aggregation import RunningSum
from coordinator.metrics import Metrics
from coordinator.round import Ending, Phase, Reason, Round, RoundPolicy
from coordinator.store.blobs import BlobStore
from coordinator.store.database import Database
from coordinator.store.records import AssignmentRecord, RoundRecord, TaskRecord
from coordinator.store.spool import Spool
from coordinator.store.worker import Worker
from coordinator.taskfile import TaskFile
from schedules.clock import Clock
from wire import checkpoint
from wire.errors import WireError
from wire.messages import Published
from wire.plan import Manifest
from wire.update import Update, read

log = logging.getLogger(__name__)

_DECODED_AT_ONCE = 2  # updates, each of the model's size, between the disk and the sum


@dataclass(frozen=True)
class Services:
    """What every running task shares. `decoding` bounds the updates that are in memory at once."""

    database: Database
    blobs: BlobStore
    spool: Spool
    worker: Worker
    clock: Clock
    metrics: Metrics
    decoding: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_DECODED_AT_ONCE))

    def wall(self) -> float:
        """Now, in seconds since the epoch."""
        return self.clock.now().timestamp()


class Recount(NamedTuple):
    """A sum made anew. `lost`: the accepted updates that the disk no longer has, and why."""

    total: RunningSum
    lost: dict[str, str]


class Ledger:
    """What the store knows of a running task. `record` and `model` are as last journalled."""

    def __init__(
        self, services: Services, record: TaskRecord, task: TaskFile, manifest: Manifest
    ) -> None:
        self.record = record
        self.task = task
        self.manifest = manifest
        self._services = services
        self._database = services.database
        self._opened: RoundRecord
        self._sum: RunningSum
        self._policy = RoundPolicy(
            goal=task.round.goal,
            minimum=task.round.minimum,
            deadline=task.deadline,
            over_selection=task.round.over_selection,
        )
        newest = self._database.models(record.name)[-1]
        self.model = self._published(newest.version, newest.digest)
        self._begin(self._database.rounds(record.name, 1)[-1])

    @property
    def opened(self) -> float:
        """When the newest round was opened, in seconds since the epoch."""
        return self._opened.opened

    def load(self) -> Round:
        """The newest round as it was left, its accepted updates folded in again."""
        found = self._round()
        for row in self._database.assignments(self.record.name, found.number):
            state = row.state
            counts = state == "accepted" and found.ending is None
            if counts and (why := self._fold(row.id, self._sum)) is not None:
                self._database.lose(row.id, why)
                state = "refused"
            found.restore(row.id, row.device, state)
        return found

    def assign(self, row: AssignmentRecord) -> None:
        """A device gets a place."""
        self._database.assign(row)
        if self._opened.started is None:
            self._opened = msgspec.structs.replace(self._opened, started=row.assigned)

    def accept(self, assignment: str, update: Update) -> None:
        """A sealed and checked update counts from now on."""
        header = update.header
        loss = header.loss if math.isfinite(header.loss) else 0.0
        self._database.accept(assignment, header.examples, loss, self._services.wall())
        self._sum.add(update.delta, header.examples)

    def recount(self, accepted: Iterable[str]) -> Recount:
        """The sum of these accepted updates of the open round, in this order, read from the spool.
        Nothing changes before `recounted`."""
        found = Recount(self._empty_sum(), {})
        for assignment in accepted:
            if (why := self._fold(assignment, found.total)) is not None:
                found.lost[assignment] = why
        return found

    def recounted(self, found: Recount) -> None:
        """What was left out of the recount is journalled as gone: from now on it is the sum."""
        self._sum = found.total

    def end(self, ending: Ending) -> tuple[RoundRecord, Round | None]:
        """End the round: the next model, durable, then one transaction. Returns the record of the
        round and the one that follows it, if any."""
        digest = None
        if ending.phase is Phase.CLOSED:
            base = self._services.blobs.get(self.model.model)
            try:
                new = self._sum.apply(checkpoint.read(base, self.manifest.parameters))
            except WireError as error:
                log.error("task %s: round %d: %s", self.record.name, self._opened.number, error)
                ending = Ending(Phase.ABANDONED, Reason.NOT_FINITE)
            else:
                digest = self._services.blobs.put(checkpoint.write(new))
        version = self.model.version + (digest is not None)
        state = self._state_after(ending, version)
        ended = msgspec.structs.replace(
            self._opened,
            phase=str(ending.phase),
            reason=str(ending.reason),
            ended=self._services.wall(),
            updates=self._sum.updates,
            examples=self._sum.weight,
        )
        following = self._database.end_round(ended, digest, state)
        self.record = msgspec.structs.replace(self.record, state=state)
        if digest is not None:
            self.model = self._published(version, digest)
        if following is None:
            return ended, None
        self._begin(following)
        return ended, self._round()

    def _begin(self, opened: RoundRecord) -> None:
        self._opened = opened
        self._sum = self._empty_sum()

    def _empty_sum(self) -> RunningSum:
        return RunningSum(self.manifest.parameters, self.task.aggregation.max_examples)

    def _round(self) -> Round:
        """The journalled round with nobody in it; its clock goes on where it was."""
        found = Round(self._opened.number, self._policy)
        if self._opened.started is not None:
            gone = min(max(self._services.wall() - self._opened.started, 0.0), self.task.deadline)
            found.started = self._services.clock.monotonic() - gone
        if self._opened.reason is not None:
            found.ending = Ending(Phase(self._opened.phase), Reason(self._opened.reason))
        return found

    def _fold(self, assignment: str, total: RunningSum) -> str | None:
        """Add an accepted update from the spool once more; or why it cannot be had: lost."""
        try:
            data = self._services.spool.read(assignment)
            update = read(data, self.manifest.parameters, self.task.upload.codec)
        except (OSError, WireError) as error:
            # To fail for good would lose the others' work too.
            name = self.record.name
            log.error("task %s: the accepted update %s is lost: %s", name, assignment, error)
            return str(error)
        total.add(update.delta, update.header.examples)
        return None

    def _published(self, version: int, digest: str) -> Published:
        name = self.record.name
        self._services.metrics.version.labels(name).set(version)
        return Published(task=name, version=version, plan=self.record.plan, model=digest)

    def _state_after(self, ending: Ending, version: int) -> str:
        if ending.reason is Reason.STOPPED:
            return "stopped"
        return "done" if 0 < self.task.round.rounds <= version else "running"
