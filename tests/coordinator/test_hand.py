"""The hand: in a thread or in a process of its own, the same work; and what if the process ends."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from coordinator.bench import Bench, Counted, Opened
from coordinator.errors import Unavailable
from coordinator.hand import Hand, open_hand
from tests.coordinator.test_bench import WORK, expected, upload


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
