"""What the training child imposes on itself, so that nobody notices it: the last at the processor
and the disk, the first to go when memory runs out.

A setting that the system refuses (a filter of system calls, say) is told and does no harm.
"""

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

_STATUS = Path("/proc/self/status")
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_LAST_NICE, _FIRST_TO_GO = 19, "1000"
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13  # as in linux/ioprio.h
# The system call's number: the C library has no function for it, and psutil costs 3 MB.
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "armv7l": 314, "armv6l": 314}
_STACK = 1 << 20  # bytes of a thread's; 8 MB is usual, and counts whole against a memory limit
_ATTRIBUTES = 128  # bytes; a pthread_attr_t has 64 at most
_THREADED_LIBRARIES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class OutOfMemory(MemoryError):
    """The job does not fit in its memory limit, or in what the system gives; says where."""


def be_a_guest() -> tuple[str, ...]:
    """Take the lowest place. Call it before numpy is imported; returns what was refused."""
    for name in _THREADED_LIBRARIES:
        os.environ[name] = "1"  # of numpy's own: 40 MB of address space each, and of no use here
    return tuple(_refused())


def _refused() -> Iterator[str]:
    settings: tuple[tuple[str, Callable[[], object]], ...] = (
        # Both: who may not be idle is nice at least, and nice time is told apart from other load.
        ("nice", lambda: os.setpriority(os.PRIO_PROCESS, 0, _LAST_NICE)),
        ("idle processor class", _idle_processor),
        ("idle disk class", _idle_disk),
        ("first to go", lambda: _OOM_SCORE.write_text(_FIRST_TO_GO)),
        ("small stacks", _small_stacks),
        # A dump would write the owner's examples to the disk.
        ("no core dump", lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0))),
    )
    for name, impose in settings:
        try:
            impose()
        except (OSError, ValueError, AttributeError) as error:
            yield f"{name}: {error}"


def _idle_processor() -> None:
    if sys.platform != "linux":
        raise OSError(f"unknown on {sys.platform}")
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _idle_disk() -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if sys.platform != "linux" or number is None:
        raise OSError(f"unknown on {sys.platform} {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _small_stacks() -> None:
    """Give each thread that is started from now on a stack of `_STACK` bytes."""
    libc = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(_ATTRIBUTES)
    libc.pthread_attr_init(attributes)
    libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_STACK))
    if code := libc.pthread_setattr_default_np(attributes):
        raise OSError(code, os.strerror(code))


def hold_memory(limit: int) -> str | None:
    """Let this process have at most `limit` bytes of memory of its own; beyond, allocations fail.

    Call it after the imports. What libraries have reserved and never touched costs nothing and does
    not count, nor do the pages of program files (about 30 MB), which the kernel takes back as it
    likes. Raises `OutOfMemory` when more is in use already. Returns why it was refused.
    """
    try:
        reserved, used = _data()
        if used >= limit:
            raise OutOfMemory(f"numpy and ONNX Runtime alone hold {used / 1e6:.1f} MB")
        most = limit + reserved - used
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    except (OSError, ValueError, LookupError) as error:
        return f"memory limit: {error}"
    return None


def require_room_for(threads: int) -> None:
    """Raise `OutOfMemory` unless so many threads can be started. ONNX Runtime hangs for good when
    the first of several can be and a later one cannot."""
    try:
        most, _ = resource.getrlimit(resource.RLIMIT_DATA)
        reserved, _ = _data()
    except (OSError, LookupError):
        return
    if most != resource.RLIM_INFINITY and most - reserved < 2 * threads * _STACK:
        raise OutOfMemory(f"{threads} threads cannot be started")


def _data() -> tuple[int, int]:
    """(bytes of writable memory of its own that are reserved, those of them in use)."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    sizes = {fields[0]: int(fields[1]) * 1024 for fields in lines if fields[-1:] == ["kB"]}
    return sizes["VmData:"], sizes["RssAnon:"] + sizes["VmSwap:"]
