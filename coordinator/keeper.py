"""The keeper of a task's rounds: ends each at its goal or its deadline, in this process.

Every process over the store keeps every task; the store lets one of them close a round. A round
that is closing and whose closer is no more is taken over.
"""

import asyncio
import logging
from contextlib import suppress

from coordinator import opening
from coordinator.bench import Bench, Total
from coordinator.closing import Closer
from coordinator.errors import Unavailable
from coordinator.round import Phase, Round
from coordinator.services import Services
from coordinator.store import ending, handing, sums
from coordinator.store.ending import Closing
from coordinator.store.records import AssignmentRecord
from coordinator.task import Task
from coordinator.trying import Trying, unforeseen
from schedules.backoff import Backoff
from systemd.journal import fields

log = logging.getLogger(__name__)

_STOP_SECONDS = 10.0  # that a stop waits for a model that is being made
_LOOK_SECONDS = 5.0  # at the longest, to find what nobody told of
_AGAIN = Backoff(first=1.0, limit=60.0)  # where this process could not close a round
_SOON = 2.0  # at the longest, after a failure: no deadline waits for a store that is back
_ADOPTED = 16  # updates taken over at a time


class Nodes:
    """The processes over the store that are alive, as last seen; this one among them."""

    def __init__(self, own: str) -> None:
        self.own = own
        self.alive = {own}


class Keeper:
    """One task's, in this process."""

    def __init__(self, services: Services, task: Task, nodes: Nodes) -> None:
        self._services = services
        self._task = task
        self._nodes = nodes
        self._handed = 0  # the round whose sum was handed over
        self._failures = 0  # in a row, to close a round here
        self._not_before = 0.0  # on the loop's clock: the next try

    async def run(self) -> None:
        """Keep the rounds until the task has ended."""
        trying = Trying(f"task {self._task.name}: round not closed", _SOON)
        while self._task.running:
            # A full or broken disk: the round stays as it is, nothing acknowledged is lost.
            async with trying:
                await self._step()

    async def stop(self) -> None:
        """End the task: its round is abandoned, its models stay. A model that is being made has
        some seconds; one that could not be made is not waited for any longer. Raises `Unavailable`
        while it is being made still."""
        loop = asyncio.get_running_loop()
        now, until = self._services.store.now(), loop.time() + _STOP_SECONDS
        while self._task.running:
            if loop.time() > until:
                await self._give_up()
                return
            ended = await self._services.store.run(
                ending.begin_close, self._task.terms, self._services.node, now, stopped=True
            )
            if isinstance(ended, Round):
                await self._over(ended)
            else:  # it closes at this moment; then the next one is stopped
                await self._task_told(_LOOK_SECONDS / 10)

    async def _give_up(self) -> None:
        store = self._services.store
        found = await store.run(ending.abandon, self._task.terms, store.now())
        if found is None:
            raise Unavailable("closing", "a model is being made: try again")
        log.error(
            "task %s: stopped though round %d could not be closed (%s): its %d accepted updates "
            "are in no model",
            *(self._task.name, found.round.number, found.reason, found.round.arrived),
        )
        await self._over(found.round)

    async def _step(self) -> None:
        task, services = self._task, self._services
        await self._task.refresh(self._services.store)
        if task.round.phase is Phase.CLOSING:
            await self._closing()
        elif task.round.due(services.store.now()):
            ended = await services.store.run(
                ending.begin_close, task.terms, services.node, services.store.now()
            )
            if isinstance(ended, Closing):
                await self._close(ended)
            elif ended is not None:
                await self._over(ended)
        elif not await self._adopt():
            deadline = task.round.deadline
            left = _LOOK_SECONDS if deadline is None else deadline - services.store.now()
            await self._task_told(min(max(0.0, left), _LOOK_SECONDS))

    async def _task_told(self, seconds: float) -> None:
        """Until something may have changed, or so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._task.told.wait()
        except TimeoutError:
            pass
        self._task.told.clear()

    # Closing

    async def _closing(self) -> None:
        """Another process closes the round, or did: help, or take over. One that could not close it
        leaves it to the others for a while."""
        task, services = self._task, self._services
        if asyncio.get_running_loop().time() >= self._not_before:
            others = self._nodes.alive - {services.node}
            taken = await services.store.run(ending.take_over, task.terms, services.node, others)
            if taken is not None:
                await self._close(taken)
                return
        await self._hand_over()
        await self._task_told(1.0)

    async def _hand_over(self) -> None:
        """This process's sum, for the closer."""
        task, number = self._task, self._task.round.number
        if self._handed == number:
            return
        async with task.summing.still():
            found = await self._total(number)
        if found is not None:
            await self._services.store.run(
                sums.put_partial, task.name, number, self._services.node, found.tags, found.data
            )
        self._handed = number

    async def _total(self, number: int) -> Total | None:
        try:
            return await self._services.hand.do(Bench.total, self._task.work, number)
        except Unavailable:
            return None  # the closer sums the bytes

    async def _forget(self, number: int) -> None:
        with suppress(Unavailable):  # then it is forgotten
            await self._services.hand.do(Bench.over, self._task.work, number)

    async def _close(self, closing: Closing) -> None:
        try:
            ended = await Closer(self._services, self._task, closing, self._nodes.alive).close()
        except Exception as error:  # noqa: BLE001 - whatever it is, another may fare better
            await self._hand_back(closing.round.number, error)
            return
        self._failures = 0
        if ended is not None:
            await self._over(ended)

    async def _hand_back(self, number: int, error: Exception) -> None:
        """What fails here, as on a full disk, may not fail elsewhere: whoever can is to close."""
        self._failures += 1
        wait = _AGAIN.delay(self._failures, 1.0)
        self._not_before = asyncio.get_running_loop().time() + wait
        log.error(
            "task %s: round %d could not be closed here, next try in %.0f s, elsewhere at once: %s",
            *(self._task.name, number, wait, error),
            exc_info=unforeseen(error),
            extra=fields(TASK=self._task.name, ROUND=number),
        )
        reason = str(error) or type(error).__name__
        await self._services.store.run(
            handing.hand_back, self._task.name, number, self._services.node, reason
        )

    async def _over(self, ended: Round) -> None:
        """A round has ended and this process saw to it."""
        task, metrics = self._task, self._services.metrics
        await self._task.refresh(self._services.store)
        async with task.summing.still():
            await self._forget(ended.number)
        assert ended.ending is not None
        reason = str(ended.ending.reason)
        metrics.ended(task.name, ended)
        log.info(
            "task %s: round %d %s (%s): %d updates, model version %d",
            *(task.name, ended.number, ended.phase, reason, ended.arrived, task.model.version),
            extra=fields(TASK=task.name, ROUND=ended.number, REASON=reason),
        )
        if task.round.number == ended.number:  # no other follows
            state = "stopped" if reason == "stopped" else "done"
            task.ended(state)

    # Updates that a process which is no more has summed

    async def _adopt(self) -> bool:
        """Sum some of them here. False when there are none."""
        task, services, number = self._task, self._services, self._task.round.number
        if not task.aggregator.streams or not task.round.arrived:
            return False
        for portion in await services.store.read(sums.portions, task.name, number):
            if portion.node in self._nodes.alive:
                continue
            async with task.summing.still():
                taken = await services.store.run(
                    sums.adopt, task.name, number, services.node, portion.node, _ADOPTED
                )
                await self._sum(number, taken)
            return bool(taken)
        return False

    async def _sum(self, number: int, taken: list[AssignmentRecord]) -> None:
        task = self._task
        for row in taken:
            data = await self._services.store.read(sums.kept, row.id)
            kept = opening.kept(task.round, row, data)
            await self._services.hand.do(Bench.include, task.work, number, kept)
