"""The hand: in a thread or in a process of its own, the same work; and what if the process ends."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from coordinator.aggregation import Contribution
from coordinator.bench import Bench, Counted, Opened, Upload, strategy_of
from coordinator.errors import Unavailable
from coordinator.hand import Apart, Hand, open_hand
from tests.coordinator.test_bench import BASE, WORK, expected, upload
from wire.digest import digest_of
from wire.plan import Parameter
from wire.update import UpdateHeader, write


@pytest.fixture(params=[False, True], ids=["thread", "process"])
async def hand(request: pytest.FixtureRequest) -> AsyncIterator[Hand]:
    async with open_hand(request.param) as opened:
        yield opened


def children() -> list[psutil.Process]:
    return [c for c in psutil.Process().children() if "coordinator.hand" in c.cmdline()]


async def test_work_is_done_in_the_order_in_which_it_was_given(hand: Hand):
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(hand.do(Bench.open, WORK, number, [upload("a", number)]))
            counted = [Counted(0, "a", 0)]
            group.create_task(hand.do(Bench.add, WORK, number, 1, counted))
        total = group.create_task(hand.do(Bench.total, WORK, 1))
    found = total.result()
    assert found is not None
    assert found.data == expected(*((float(number), 0) for number in range(5)))


async def test_large_batches_go_there_and_back(hand: Hand):
    batch = [upload("a")._replace(data=bytes(1 << 20))] * 20 + [upload("a")]
    said = await hand.do(Bench.open, WORK, 1, batch)
    assert [isinstance(each, Opened) for each in said] == [False] * 20 + [True]


async def test_what_goes_wrong_at_the_bench_is_raised_and_it_goes_on(hand: Hand):
    await hand.do(Bench.open, WORK, 4, [upload("a")])
    with pytest.raises((IndexError, RuntimeError), match="out of range"):
        await hand.do(Bench.add, WORK, 4, 1, [Counted(9, "a", 0)])
    await hand.do(Bench.open, WORK, 5, [upload("a")])
    await hand.do(Bench.add, WORK, 5, 1, ())


async def test_a_process_that_is_killed_is_unavailable_once_and_the_next_has_no_sums():
    async with open_hand(apart=True) as hand:
        await hand.do(Bench.open, WORK, 1, [upload("a")])
        await hand.do(Bench.add, WORK, 1, 1, [Counted(0, "a", 0)])
        (child,) = await asyncio.to_thread(children)
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.wait, 10)
        with pytest.raises(Unavailable):
            await hand.do(Bench.total, WORK, 1)
        assert await hand.do(Bench.total, WORK, 1) is None
        (other,) = await asyncio.to_thread(children)
        assert other.pid != child.pid
    assert not await asyncio.to_thread(children)


async def test_signals_that_are_for_the_coordinator_do_not_end_its_hand():
    async with open_hand(apart=True) as hand:
        assert await hand.do(Bench.total, WORK, 1) is None
        (child,) = await asyncio.to_thread(children)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid, number)
        await hand.do(Bench.open, WORK, 1, [upload("a")])
        assert await asyncio.to_thread(children) == [child]


async def kill(child: psutil.Process) -> None:
    os.kill(child.pid, signal.SIGKILL)
    await asyncio.to_thread(child.wait, 10)


WIDE = WORK._replace(task="wide", parameters=(Parameter(name="w", shape=(100_000,)),))


def wide(number: int) -> tuple[Upload, Contribution]:
    """An update that is large enough for the memory that both processes see, and what it holds."""
    delta = {"w": np.random.default_rng(number).standard_normal(100_000, np.float32)}
    header = UpdateHeader(
        assignment="a",
        plan=WORK.plan,
        base=BASE,
        codec="float32",
        examples=10,
        steps=3,
        loss=0.5,
        seconds=1.0,
    )
    data = write(header, delta, np.random.default_rng(1))
    return Upload("a", BASE, digest_of(data), data), Contribution(delta, 10, 3, 0)


async def test_what_was_opened_stays_as_it_was_while_others_come(hand: Hand):
    some = [wide(number) for number in range(80)]  # 30 MB: the memory they come through is less
    for batch, (each, _) in enumerate(some):
        await hand.do(Bench.open, WIDE, batch, [each])
    for batch in range(80):
        await hand.do(Bench.add, WIDE, batch, 1, [Counted(0, "a", 0)])
    total = await hand.do(Bench.total, WIDE, 1)
    sum_of_all = strategy_of(WIDE).empty()
    sum_of_all.add_all([contribution for _, contribution in some])
    assert total is not None
    assert total.data == sum_of_all.to_bytes()


async def test_one_that_is_killed_while_many_wait_fails_them_all_and_another_starts():
    async with open_hand(apart=True) as hand:
        await hand.do(Bench.total, WORK, 1)
        (child,) = await asyncio.to_thread(children)
        os.kill(child.pid, signal.SIGSTOP)
        large = upload("a")._replace(data=bytes(1 << 20))  # more than the line holds
        asked = [asyncio.create_task(hand.do(Bench.open, WORK, n, [large])) for n in range(40)]
        await asyncio.sleep(0.1)
        asked[0].cancel()
        await kill(child)
        said = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(each) for each in said] == [asyncio.CancelledError] + [Unavailable] * 39
        assert await hand.do(Bench.total, WORK, 1) is None
        assert len(await asyncio.to_thread(children)) == 1


async def test_one_that_hangs_is_ended_and_another_starts():
    apart = Apart(seconds=5.0)
    try:
        await apart.do(Bench.total, (WORK, 1))
        apart._seconds = 0.2
        (child,) = await asyncio.to_thread(children)
        os.kill(child.pid, signal.SIGSTOP)
        large = upload("a")._replace(data=bytes(20 << 20))  # which the line cannot be rid of
        with pytest.raises(Unavailable):
            await apart.do(Bench.open, (WORK, 1, [large]))
        assert not await asyncio.to_thread(children)
        apart._seconds = 20.0
        assert await apart.do(Bench.total, (WORK, 1)) is None
    finally:
        await apart.close()


async def test_all_the_first_work_starts_one_process_and_is_done_in_order():
    async with open_hand(apart=True) as hand:
        opened = asyncio.create_task(hand.do(Bench.open, WORK, 1, [upload("a")]))
        added = asyncio.create_task(hand.do(Bench.add, WORK, 1, 1, [Counted(0, "a", 0)]))
        assert await asyncio.create_task(hand.do(Bench.total, WORK, 1)) is not None
        assert opened.done()
        assert added.done()
        assert len(await asyncio.to_thread(children)) == 1


async def test_who_gave_the_first_work_gives_up_and_the_next_has_the_process():
    async with open_hand(apart=True) as hand:
        for turns in range(8):
            first = asyncio.create_task(hand.do(Bench.total, WORK, 1))
            for _ in range(turns):
                await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
        assert await hand.do(Bench.total, WORK, 1) is None
        assert len(await asyncio.to_thread(children)) == 1
    assert not await asyncio.to_thread(children)


@pytest.mark.parametrize("turns", [0, 1, 3, 6])
async def test_closed_while_it_starts_nothing_is_left(turns: int):
    async with open_hand(apart=True) as hand:
        asked = [asyncio.create_task(hand.do(Bench.total, WORK, 1)) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
    said = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(each) for each in said] == [Unavailable] * 3
    with pytest.raises(Unavailable):
        await hand.do(Bench.total, WORK, 1)
    assert not await asyncio.to_thread(children)


async def test_one_that_cannot_be_started_is_tried_again_with_the_next_work(
    monkeypatch: pytest.MonkeyPatch,
):
    async with open_hand(apart=True) as hand:
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/nowhere/python")
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await hand.do(Bench.total, WORK, 1)
        assert await hand.do(Bench.total, WORK, 1) is None


async def test_what_cannot_be_said_is_raised_and_it_goes_on():
    async with open_hand(apart=True) as hand:
        await hand.do(Bench.open, WORK, 1, [upload("a")])
        for _ in range(2):
            with pytest.raises(TypeError):
                await hand.do(Bench.open, WORK, 2, [upload("a")._replace(data=memoryview(b""))])
        await hand.do(Bench.add, WORK, 1, 1, [Counted(0, "a", 0)])


async def test_nothing_is_started_before_there_is_work():
    async with open_hand(apart=True):
        assert not await asyncio.to_thread(children)


_GIVES_WORK = """
import asyncio
from coordinator.bench import Bench
from coordinator.hand import open_hand
from tests.coordinator.test_bench import WORK

async def main():
    async with open_hand(apart=True) as hand:
        await hand.do(Bench.total, WORK, 1)
        print("there", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


def test_it_ends_with_whoever_gave_it_work_even_killed(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", _GIVES_WORK], stdout=subprocess.PIPE) as giver:
        assert giver.stdout is not None
        assert giver.stdout.readline() == b"there\n"
        (child,) = psutil.Process(giver.pid).children()
        os.kill(giver.pid, signal.SIGKILL)
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running()
