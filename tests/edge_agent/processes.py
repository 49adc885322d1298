"""Looking at real processes. All of it blocks: call it off the event loop."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def gone(pid: int) -> bool:
    """Whether a process is over; one that nobody reaped is over, too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_gone(pid: int) -> None:
    """Until it is over."""
    _wait(lambda: gone(pid))


def wait_handling_sigterm(pid: int) -> None:
    """Until it catches or ignores SIGTERM, and sleeps."""
    _wait(lambda: _handles_sigterm(pid) and psutil.Process(pid).status() == psutil.STATUS_SLEEPING)


def wait_children(pid: int) -> None:
    """Until it has started a child."""
    _wait(lambda: bool(psutil.Process(pid).children()))


def wait_training(pid: int) -> None:
    """Until a training child listens to SIGTERM, as it does from its training on, and has worked
    for a while."""
    _wait(lambda: _handles_sigterm(pid))
    _wait_worked(pid)


def wait_tuning(pid: int) -> None:
    """Until a child, which SIGTERM ends, has loaded the runtime and worked for a while."""
    process = psutil.Process(pid)
    _wait(lambda: any("onnxruntime" in m.path for m in process.memory_maps()))
    _wait_worked(pid)


def wait_kept(folder: Path) -> None:
    """Until a training has left a checkpoint in a folder."""
    _wait(lambda: any(folder.glob("*.checkpoint")))


def _wait_worked(pid: int) -> None:
    process = psutil.Process(pid)
    begun = process.cpu_times().user
    _wait(lambda: process.cpu_times().user >= begun + 0.2)


def _handles_sigterm(pid: int) -> bool:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigCgt", "SigIgn"))]
    return any(mask >> (signal.SIGTERM - 1) & 1 for mask in masks)


def _wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
