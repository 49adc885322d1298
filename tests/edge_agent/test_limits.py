"""What a process imposes on itself, seen from inside and outside of real processes."""

import json
import platform
import subprocess
import sys

import pytest

from tests.edge_agent.plans import FLOWERS

SHOWS = """
import json, os, resource, sys
from pathlib import Path
import psutil
print(json.dumps({
    "refused": limits.be_a_guest(),
    "class": os.sched_getscheduler(0),
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "disk": psutil.Process().ionice().ioclass,
    "oom": int(Path("/proc/self/oom_score_adj").read_text()),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
}))
"""

# A filter as a service has it: each of these system calls is "not permitted".
FILTER = """
import ctypes, errno, struct
def refuse(*numbers):
    def rule(code, yes, no, value):
        return struct.pack("HBBI", code, yes, no, value)
    rules = [rule(0x20, 0, 0, 0)]  # load the number
    for number in numbers:
        rules += [rule(0x15, 0, 1, number), rule(0x06, 0, 0, 0x00050000 | errno.EPERM)]
    rules.append(rule(0x06, 0, 0, 0x7FFF0000))  # allow
    code = ctypes.create_string_buffer(b"".join(rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
"""
SYSTEM_CALLS = {  # sched_setscheduler, ioprio_set, setpriority, prlimit64
    "x86_64": (144, 251, 141, 302),
    "aarch64": (119, 30, 140, 261),
}
NUMBERS_KNOWN = pytest.mark.skipif(
    platform.machine() not in SYSTEM_CALLS, reason="its system calls' numbers are not known"
)

MEMORY = f"""
import sys
import numpy as np
from pathlib import Path
from edge_agent.session import Trainer, open_session
from edge_agent.examples import Examples
from wire import checkpoint
from wire.plan import parse_manifest
plan = Path({str(FLOWERS)!r})
manifest = parse_manifest((plan / "manifest.json").read_bytes())
weights = checkpoint.read((plan / "checkpoint.safetensors").read_bytes(), manifest.parameters)
trainer = Trainer(manifest, plan, weights, 1)
def batch(size):
    return Examples({{"x": np.ones((size, 4), np.float32), "label": np.zeros(size, np.int64)}})
def used():
    return limits._data()[1]
"""


def run(program: str) -> str:
    """What a process of its own prints."""
    ended = subprocess.run(
        [sys.executable, "-c", "from edge_agent import limits\n" + program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_a_guest_takes_the_lowest_place():
    assert json.loads(run(SHOWS)) == {
        "refused": [],
        "class": 5,  # idle
        "nice": 19,
        "disk": 3,  # idle
        "oom": 1000,
        "core": [0, 0],
    }


@NUMBERS_KNOWN
def test_what_is_refused_is_told_and_the_rest_is_done():
    numbers = SYSTEM_CALLS[platform.machine()][:3]
    found = json.loads(run(f"{FILTER}refuse{numbers}\n{SHOWS}"))
    assert found["refused"] == [
        "nice: [Errno 1] Operation not permitted",
        "idle processor class: [Errno 1] Operation not permitted",
        "idle disk class: [Errno 1] Operation not permitted",
    ]
    assert (found["oom"], found["core"]) == (1000, [0, 0])


@NUMBERS_KNOWN
def test_a_memory_limit_that_is_refused_is_told_and_does_no_harm():
    number = SYSTEM_CALLS[platform.machine()][3]
    program = """
print(limits.hold_memory(100_000_000))
limits.require_room_for(4)
"""
    assert run(f"{FILTER}refuse({number})\n{program}") == (
        "memory limit: [Errno 1] Operation not permitted"
    )


def test_numpy_starts_no_threads_of_its_own():
    program = "limits.be_a_guest(); import numpy, psutil; print(psutil.Process().num_threads())"
    assert run(program) == "1"


def test_beyond_the_limit_no_memory_is_given():
    assert (
        run(
            MEMORY
            + """
assert limits.hold_memory(used() + 50_000_000) is None
kept = np.ones(40_000_000, np.uint8)
try:
    np.ones(20_000_000, np.uint8)
except MemoryError:
    print("no more")
"""
        )
        == "no more"
    )


def test_a_limit_that_is_exceeded_already_is_said():
    assert run(
        MEMORY
        + """
try:
    limits.hold_memory(1_000_000)
except limits.OutOfMemory as error:
    print(error)
"""
    ).startswith("numpy and ONNX Runtime alone hold ")


@pytest.mark.parametrize("room", [1, 4, 16, 64])
def test_a_step_that_needs_more_is_out_of_memory(room):
    assert run(
        MEMORY
        + f"""
large = batch(1_000_000)
limits.hold_memory(used() + {room}_000_000)
try:
    trainer.step(large)
except limits.OutOfMemory as error:
    print(error)
"""
    ).startswith("train.onnx cannot be run")


def test_threads_that_cannot_be_started_are_out_of_memory():
    """ONNX Runtime would wait for them for good."""
    assert (
        run(
            MEMORY
            + """
limits.be_a_guest()
limits.hold_memory(used() + 8_000_000)
try:
    open_session(plan / "train.onnx", 16)
except limits.OutOfMemory as error:
    print(error)
"""
        )
        == "16 threads cannot be started"
    )


def test_threads_cost_little_of_the_limit():
    assert (
        run(
            MEMORY
            + """
limits.be_a_guest()
limits.hold_memory(used() + 60_000_000)
Trainer(manifest, plan, weights, 16).step(batch(100))
print("done")
"""
        )
        == "done"
    )
