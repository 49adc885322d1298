"""Memory that the C library holds although it is free."""

import gc
import platform
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from tests.coordinator.plans import plan, weights
from tests.coordinator.serving import Serving
from wire.tensors import Array

Buffer = bytes | bytearray | np.ndarray

# What is large and let go makes glibc keep more from then on, in the arena of each thread.
_THREAD = """
import sys, threading
import psutil
from coordinator import memory

def resident():
    return psutil.Process().memory_info().rss

def work():
    global grown
    before = resident()
    some = [b"x" * 100_000 for _ in range(300)]
    assert resident() - before > 25_000_000
    del some
    grown = resident() - before

if "advised" in sys.argv:
    assert memory.keep_little()
large = b"x" * 30_000_000
del large
thread = threading.Thread(target=work)
thread.start()
thread.join()
print(grown)
"""


def kept(*arguments: str) -> int:
    """Bytes that a process holds more than before, though all is free."""
    command = [sys.executable, "-c", _THREAD, *arguments]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps it")
def test_what_a_thread_let_go_is_the_system_s_again():
    assert kept() > 20_000_000  # else there is nothing to give advice on
    assert kept("advised") < 4_000_000


def held_anywhere(contents: set[bytes], own: Sequence[object]) -> int:
    """How many objects of this process, other than our `own`, are bytes or arrays of any of these
    contents. No name of the code's is asked for."""
    known = {id(each) for each in (*own, *contents)}
    sizes = set(map(len, contents))
    near = [each for each in _buffers() if memoryview(each).nbytes in sizes]
    return sum(memoryview(each).tobytes() in contents for each in near if id(each) not in known)


def _buffers() -> list[Buffer]:
    """All bytes and arrays. The collector does not list them, nor a tuple or a dictionary of
    nothing else, but knows who holds them: a container, a frame, a coroutine that waits."""
    gc.collect()
    found: dict[int, Buffer] = {}
    holders: list[object] = gc.get_objects()
    while holders:
        held = {id(each): each for each in gc.get_referents(*holders) if not gc.is_tracked(each)}
        found |= {k: each for k, each in held.items() if isinstance(each, Buffer)}
        holders = [each for each in held.values() if isinstance(each, tuple | dict)]
    return list(found.values())


async def test_a_task_that_waits_holds_no_update(served: Serving):
    await plan(goal=4, over_selection=2, deadline="1h").create(served.admin)
    first, second, third = await served.devices(3)
    own: list[bytes | Array] = []
    for seed, device in enumerate((first, second)):
        assignment, delta = await device.take(), weights(seed=100 + seed)
        data = device.write(assignment, delta)
        own += [data, *delta.values()]
        await device.deliver(assignment, data)
    await third.take()  # the last one to be answered is another
    task = served.task()
    await served.until(lambda: task.round.arrived == 2)
    async with task.summing.still():  # they are summed
        pass
    contents = {memoryview(each).tobytes() for each in own}
    assert held_anywhere(contents, own[1:]) == 1  # what is there is found
    assert held_anywhere(contents, own) == 0


# Little that stays between much that goes: no end of an arena is free.
_BETWEEN = """
import psutil
from coordinator import memory

def resident():
    return psutil.Process().memory_info().rss

before = resident()
some = [b"x" * 60_000 for _ in range(600)]
stays = some[::20]
del some
held = resident() - before
memory.give_back()
print(held, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that keeps it")
def test_what_was_let_go_among_what_stays_is_the_system_s_again():
    command = [sys.executable, "-c", _BETWEEN]
    said = subprocess.run(command, capture_output=True, check=True).stdout.split()
    held, after = map(int, said)
    assert held > 30_000_000
    assert after < 8_000_000
