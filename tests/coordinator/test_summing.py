"""Who may touch a task's sum when: takers side by side, and whoever wants it still alone."""

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from coordinator.bench import Bench, Counted
from coordinator.errors import Unavailable
from coordinator.hand import Hand, open_hand
from coordinator.summing import Summing
from tests.coordinator.test_bench import WORK, expected, summed, upload

pytestmark = pytest.mark.timeout(30)


class Visit:
    """Somebody who is inside from when they are let in until they are told to leave."""

    def __init__(self, way_in: AbstractAsyncContextManager[None]) -> None:
        self.inside, self._leave = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._visit(way_in))

    async def _visit(self, way_in: AbstractAsyncContextManager[None]) -> None:
        async with way_in:
            self.inside.set()
            await self._leave.wait()

    async def leave(self) -> None:
        self._leave.set()
        await self.task

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()


async def settle() -> None:
    """Everybody has gone as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


class Slow:
    """A worker that does its work when told to."""

    def __init__(self) -> None:
        self.asked: list[asyncio.Future[None]] = []

    async def do(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        future = asyncio.get_running_loop().create_future()
        self.asked.append(future)
        return await future

    async def close(self) -> None:
        pass


def start(summing: Summing, worker: Slow) -> asyncio.Task[None]:
    return summing.start(Hand(worker), WORK, 1, 1, [])


async def usable(summing: Summing) -> None:
    """Takers are let in together; who wants it still is let in once they have left."""
    first, second = Visit(summing.taking()), Visit(summing.taking())
    await first.inside.wait()
    await second.inside.wait()
    still = Visit(summing.still())
    for each in (first, second):
        await settle()
        assert not still.inside.is_set()
        await each.leave()
    await still.inside.wait()
    await still.leave()


async def test_takers_are_inside_together_and_still_waits_for_the_last():
    await usable(Summing())


async def test_nobody_takes_while_it_is_still_or_is_about_to_be():
    summing = Summing()
    taking, still = Visit(summing.taking()), Visit(summing.still())
    await settle()
    late, later = Visit(summing.taking()), Visit(summing.still())
    await settle()
    assert not late.inside.is_set()  # else takers could keep it from ever being still
    await taking.leave()
    await still.inside.wait()
    await settle()
    assert not late.inside.is_set()
    assert not later.inside.is_set()
    await still.leave()
    await late.inside.wait()
    await settle()
    assert not later.inside.is_set()
    await late.leave()
    await later.inside.wait()
    await later.leave()


async def test_still_waits_for_every_sum_under_way():
    summing, worker = Summing(), Slow()
    async with summing.taking():
        sums = [start(summing, worker) for _ in range(3)]
    await settle()
    still, late = Visit(summing.still()), Visit(summing.taking())
    for each in worker.asked:
        await settle()
        assert not still.inside.is_set()
        each.set_result(None)
    await still.inside.wait()
    assert all(each.done() for each in sums)
    assert not late.inside.is_set()
    await still.leave()
    await late.leave()


async def test_still_waits_for_a_sum_that_a_taker_starts_while_it_waits_already():
    summing, worker = Summing(), Slow()
    async with summing.taking():
        still = Visit(summing.still())
        await settle()
        start(summing, worker)
    await settle()
    assert not still.inside.is_set()
    worker.asked[0].set_result(None)
    await still.inside.wait()
    await still.leave()


async def test_a_sum_that_fails_or_is_cancelled_is_over():
    summing, worker = Summing(), Slow()
    async with summing.taking():
        failed, cancelled = start(summing, worker), start(summing, worker)
    await settle()
    still = Visit(summing.still())
    worker.asked[0].set_exception(Unavailable("summing", "gone"))
    cancelled.cancel()
    with pytest.raises(Unavailable):
        await failed
    await still.inside.wait()
    await still.leave()
    await usable(summing)


async def test_who_leaves_in_a_hurry_is_no_longer_waited_for():
    summing = Summing()
    with pytest.raises(ZeroDivisionError):
        async with summing.taking():
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with summing.still():
            raise ZeroDivisionError
    for way_in in (summing.taking, summing.still):
        visit = Visit(way_in())
        await visit.inside.wait()
        await visit.cancel()
    await usable(summing)


async def test_who_gives_up_waiting_leaves_nothing_behind():
    summing, worker = Summing(), Slow()
    inside = Visit(summing.still())
    await inside.inside.wait()
    waiting = [Visit(summing.taking()), Visit(summing.still())]
    await settle()
    for each in waiting:
        await each.cancel()
    await inside.leave()
    await usable(summing)

    taking = Visit(summing.taking())
    still, late = Visit(summing.still()), Visit(summing.taking())
    await settle()
    await still.cancel()  # while it waits for takers
    await late.inside.wait()  # who come again at once
    again = Visit(summing.still())
    await taking.leave()
    await settle()
    assert not again.inside.is_set()
    await late.leave()
    await again.inside.wait()
    await again.leave()

    async with summing.taking():
        started = start(summing, worker)
    still = Visit(summing.still())
    await settle()
    await still.cancel()  # while it waits for sums, which go on
    assert not started.done()
    worker.asked[0].set_result(None)
    await started
    await usable(summing)


async def test_that_takers_left_before_is_no_news_for_whoever_wants_it_still_now():
    summing = Summing()
    async with summing.taking():
        pass
    async with summing.taking():
        still = Visit(summing.still())
        await settle()
        assert not still.inside.is_set()
    await still.leave()


@pytest.mark.parametrize("seed", range(20))
async def test_in_any_order_of_events(seed: int):
    summing, worker = Summing(), Slow()
    chance = random.Random(seed)
    takers: set[int] = set()
    alone: set[int] = set()

    @asynccontextmanager
    async def seen(who: int, among: set[int], way_in: AbstractAsyncContextManager[None]):
        async with way_in:
            among.add(who)
            try:
                yield
            finally:
                among.remove(who)

    async def come(who: int) -> None:
        if chance.random() < 0.3:
            async with seen(who, alone, summing.still()):
                for _ in range(chance.randrange(4)):
                    assert alone == {who}
                    assert not takers
                    assert all(each.done() for each in worker.asked)
                    await asyncio.sleep(0)
            return
        async with seen(who, takers, summing.taking()):
            for _ in range(chance.randrange(4)):
                assert not alone
                await asyncio.sleep(0)
            if chance.random() < 0.5:
                start(summing, worker)

    visits = []
    for who in range(200):
        visits.append(asyncio.create_task(come(who)))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
        if chance.random() < 0.2:
            chance.choice(visits).cancel()
        under_way = [each for each in worker.asked if not each.done()]
        if under_way and chance.random() < 0.5:
            chance.choice(under_way).set_result(None)
    for _ in range(2000):  # more turns than they need
        for each in worker.asked:
            if not each.done():
                each.set_result(None)
        await asyncio.sleep(0)
    assert all(each.done() for each in visits)
    assert not [each for each in visits if not each.cancelled() and each.exception()]
    await usable(summing)


@pytest.mark.parametrize("apart", [False, True], ids=["thread", "process"])
async def test_once_it_is_still_what_was_taken_is_summed(apart: bool):
    summing = Summing()

    async def take(hand: Hand, batch: int) -> None:
        await hand.do(Bench.open, WORK, batch, [upload("a", batch)])
        async with summing.taking():
            counted = [Counted(0, "a", 0)]
            started = summing.start(hand, WORK, batch, 1, counted)
        await started

    async with open_hand(apart) as hand, asyncio.TaskGroup() as group:
        takers = [group.create_task(take(hand, batch)) for batch in range(8)]
        await takers[0]
        async with summing.still():
            first = await hand.do(Bench.total, WORK, 1)
        assert first is not None
        assert first.updates >= 1
        await asyncio.gather(*takers)
        async with summing.still():
            total = await hand.do(Bench.total, WORK, 1)
    assert total is not None
    assert total.updates == 8
    assert total.data == expected(*((float(batch), 0) for batch in range(8)))
    assert summed(total) is not None
