"""Memory that the C library holds although it is free."""

import gc
import platform
import subprocess
import sys

import pytest

from coordinator.aggregation import Contribution
from tests.coordinator.plans import constant, plan
from tests.coordinator.serving import Serving

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


async def test_a_task_that_waits_holds_no_update(served: Serving):
    await plan(goal=3, deadline="1h").create(served.admin)
    for device in await served.devices(2):
        await device.serve(constant(1.0))
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, Contribution)]


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
