"""The close of a round: the partial sums meet, the next model is made, durable and published.

One process is the closer; the store sees to that. Each process that has summed updates of the round
hands its sum over through the store. Where one does not in time, or its sum is not of the updates
that the store means, the closer sums their bytes itself: so a process that dies takes nothing with
it. The sums are integers: whoever sums what, in whatever order, the model is the same to the bit.
"""

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import Future

from coordinator.aggregation import Contribution, Next, Sum
from coordinator.bench import Bench, Total, read_back
from coordinator.errors import Unavailable
from coordinator.kept import kept_of
from coordinator.round import Reason, Round
from coordinator.services import Services
from coordinator.store import ending, sums
from coordinator.store.ending import Closing
from coordinator.store.records import AssignmentRecord, ModelRecord
from coordinator.store.sql import StoreUnavailable
from coordinator.store.sums import Portion
from coordinator.task import Task
from wire import checkpoint
from wire.errors import Rule, WireError
from wire.files import name_file

log = logging.getLogger(__name__)

_PARTIAL_SECONDS = 5.0  # that a process which lives has to hand over its sum
_LOOK_AGAIN = 0.02
_AT_ONCE = 16  # updates read and summed at a time
_READ_SECONDS = 60.0  # for the bytes of one update


class _TakenOver(Exception):
    """Another process closes the round, or has: this one was away for long."""


class Closer:
    """Makes the model of one closing round."""

    def __init__(self, services: Services, task: Task, closing: Closing, alive: set[str]) -> None:
        self._services = services
        self._task = task
        self._round = closing.round
        self._model = closing.model
        self._alive = alive
        self._lost: dict[str, str] = {}
        self._written: dict[str, bytes] = {}
        self._until: float | None = None  # when no sum is waited for any more

    async def close(self) -> Round | None:
        """Make the model and publish it. `None` when another closer has taken over. Raises when
        the model before it cannot be read: it may be brought back, and no update is lost."""
        try:
            made, examples, why = await self._made()
        except _TakenOver:
            return None
        ended = await self._services.store.run(
            ending.finish_close,
            self._task.terms,
            self._services.node,
            self._round,
            made,
            examples,
            self._lost,
            self._services.store.now(),
        )
        if ended is not None:
            self._say(why)
            await self._make_sure()
        return ended

    async def _made(self) -> tuple[ModelRecord | Reason, int, str | None]:
        """The model, durable, or why there is none; its examples; what else is to be said."""
        base, state = await self._base()
        try:
            new = await self._aggregate(base, state)
            if not self._too_few:
                return await self._keep(new), new.examples, None
        except WireError as error:
            if not self._too_few:
                finite = error.code is not Rule.NOT_FINITE
                return Reason.NOT_COMBINED if finite else Reason.NOT_FINITE, 0, str(error)
        return Reason.TOO_FEW, 0, "with what is lost, the round has not its minimum"

    @property
    def _too_few(self) -> bool:
        left = self._round.arrived - len(self._lost)
        return bool(self._lost) and left < self._round.policy.minimum

    def _say(self, why: str | None) -> None:
        """What was wrong. Not before it is so: of a round that another process has closed, the
        updates are gone because they are in its model."""
        name = self._task.name
        for identifier, detail in self._lost.items():
            log.error("task %s: the accepted update %s is lost: %s", name, identifier, detail)
        if why is not None:
            log.error("task %s: round %d: %s", name, self._round.number, why)

    async def _keep(self, new: Next) -> ModelRecord:
        """The model and the optimiser's state, durable."""
        data = await asyncio.to_thread(checkpoint.write, new.weights)
        return ModelRecord(
            task=self._task.name,
            version=self._model.version + 1,
            digest=await self._put(data),
            state=None if new.state is None else await self._put(new.state),
            created=self._services.store.now(),
        )

    async def _put(self, data: bytes) -> str:
        digest = await self._services.blobs.put(data)
        self._written[digest] = data
        return digest

    async def _make_sure(self) -> None:
        """An old model of the same bytes may have been deleted just before this one was published:
        from then on nobody deletes it."""
        blobs = self._services.blobs
        try:
            for digest, data in self._written.items():
                if not await blobs.has(digest):
                    await blobs.put(data)
        except (OSError, StoreUnavailable) as error:  # the round is closed all the same
            log.error("task %s: the new model may be gone: %s", self._task.name, error)

    async def _base(self) -> tuple[checkpoint.Weights, bytes | None]:
        blobs, tensors = self._services.blobs, self._task.manifest.checkpoint
        base = checkpoint.read(await blobs.get(self._model.digest), tensors)
        return base, None if self._model.state is None else await blobs.get(self._model.state)

    async def _aggregate(self, base: checkpoint.Weights, state: bytes | None) -> Next:
        task = self._task
        if not task.aggregator.streams:
            return await self._of_all(base, state)
        total = await self._total()
        return await asyncio.to_thread(task.aggregator.close, base, state, total)

    # Streaming

    async def _total(self) -> Sum:
        task, number = self._task, self._round.number
        total = task.aggregator.empty()
        for portion in await self._services.store.read(sums.portions, task.name, number):
            found = await self._summed(portion)
            if found is None:
                await self._sum_bytes(portion, total)
            else:
                await asyncio.to_thread(total.merge, found)
        return total

    async def _summed(self, portion: Portion) -> Sum | None:
        """What a process has summed: this one's own, or what another hands over in time."""
        task, number = self._task, self._round.number
        if portion.node == self._services.node:
            async with task.summing.still():
                own = await self._own()
            if own is None or (own.updates, own.tags) != (portion.updates, portion.tags):
                return None
            return await self._read(portion, own.data)
        if portion.node not in self._alive:
            return None
        loop = asyncio.get_running_loop()
        if self._until is None:  # for all of them, however many do not answer
            self._until = loop.time() + _PARTIAL_SECONDS
        while True:
            found = await self._services.store.read(
                sums.partial, task.name, number, self._services.node, portion
            )
            if not found.ours:
                raise _TakenOver
            if found.data is not None:
                return await self._read(portion, found.data)
            if found.there:  # a sum that lacks an update, or has one of a device that has left
                return None
            if loop.time() > self._until:
                break
            await asyncio.sleep(_LOOK_AGAIN)
        log.warning(
            "task %s: round %d: %s has not handed over its sum; its updates are summed anew",
            *(task.name, number, portion.node),
        )
        return None

    async def _own(self) -> Total | None:
        try:
            return await self._services.hand.do(Bench.total, self._task.work, self._round.number)
        except Unavailable:
            return None

    async def _read(self, portion: Portion, data: bytes) -> Sum | None:
        try:
            return await asyncio.to_thread(self._task.aggregator.read, data)
        except WireError as error:
            log.error(
                "task %s: round %d: the sum of %s cannot be read (%s); its updates are summed anew",
                *(self._task.name, self._round.number, portion.node, error),
            )
            return None

    async def _sum_bytes(self, portion: Portion, total: Sum) -> None:
        store = self._services.store
        found = await store.read(sums.summed_by, self._task.name, self._round.number, portion.node)
        for start in range(0, len(found), _AT_ONCE):
            for row in found[start : start + _AT_ONCE]:
                data = await store.read(sums.kept, row.id)
                contribution = await asyncio.to_thread(self._opened, row, data)
                if contribution is not None:
                    await asyncio.to_thread(total.add, contribution)

    # What needs all updates

    async def _of_all(self, base: checkpoint.Weights, state: bytes | None) -> Next:
        store, task = self._services.store, self._task
        found: list[AssignmentRecord] = []
        for portion in await store.read(sums.portions, task.name, self._round.number):
            found += await store.read(sums.summed_by, task.name, self._round.number, portion.node)
        loop = asyncio.get_running_loop()

        def updates() -> Iterator[tuple[str, Contribution]]:
            """Blocking, in the thread that combines them: one at a time in memory."""
            for row in sorted(found, key=lambda row: row.id):
                reading = asyncio.run_coroutine_threadsafe(store.read(sums.kept, row.id), loop)
                contribution = self._opened(row, _in_time(reading))
                if contribution is not None:
                    yield row.id, contribution

        return await asyncio.to_thread(self._combine, base, state, updates())

    def _combine(
        self,
        base: checkpoint.Weights,
        state: bytes | None,
        updates: Iterator[tuple[str, Contribution]],
    ) -> Next:
        """Blocking. Raises `OSError` that names the folder."""
        scratch = self._services.scratch
        try:
            # Somebody may have deleted it: nothing in it is precious.
            scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._task.aggregator.close_all(base, state, updates, scratch)
        except OSError as error:
            raise name_file(error, scratch) from None

    def _opened(self, row: AssignmentRecord, data: bytes | None) -> Contribution | None:
        """Blocking: an update that counts, from its bytes; `None` when they are gone: it is lost,
        and the others are not to be lost with it."""
        try:
            kept = kept_of(self._round, row, data)
            return read_back(self._task.work, kept).contribution
        except WireError as error:
            self._lost[row.id] = str(error)
            return None


def _in_time(reading: Future[bytes | None]) -> bytes | None:
    """Blocking: what is read on the loop. Raises `TimeoutError`: the round is closed later."""
    try:
        return reading.result(_READ_SECONDS)
    except TimeoutError:
        reading.cancel()
        raise TimeoutError(f"the store gave no update in {_READ_SECONDS:.0f} s") from None
