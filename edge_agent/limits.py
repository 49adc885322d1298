"""What the training child imposes on itself before it loads anything: a guest, last in every line.

A system that refuses one of these (a filter of system calls, a container) goes without it: training
that is a little less polite is not worth failing for.
"""

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

_FIRST_TO_GO = "1000"  # of oom_score_adj: what the kernel kills first when memory runs out


def be_last_in_line() -> None:
    """Processor and disk only when nobody else wants them; first to go when memory runs out; no
    core file, which would hold examples."""
    for polite in (_idle_processor, _idle_disk, _first_out_of_memory, _no_core_file):
        with suppress(OSError, ValueError, psutil.Error, AttributeError):
            polite()


def limit_memory(limit: int) -> None:
    """Have allocations fail beyond `limit` bytes of data. The kernel counts what a process may
    write to, threads' stacks too, but neither shared libraries nor files it reads."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _idle_processor() -> None:
    nice: Callable[[int], int] = os.nice
    nice(19)  # where the next is refused, this counts
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _idle_disk() -> None:
    psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def _first_out_of_memory() -> None:
    Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_GO)


def _no_core_file() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
