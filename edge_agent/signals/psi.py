"""Pressure stall information as a source of events: the kernel tells when programs wait.

See the kernel's Documentation/accounting/psi.rst. It says no more than that a look is worth while:
how much pressure is too much is for the probes to judge.
"""

import asyncio
import logging
import os
import select
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_WINDOW = 2_000_000  # microseconds; a multiple of 2 s is what a program without rights may ask
_STALLS: Mapping[str, int] = {"cpu": 300_000, "io": 300_000, "memory": 150_000}
"""Microseconds in a window in which some program waited, from which on the kernel tells."""


@asynccontextmanager
async def psi_events(
    root: Path, changed: Callable[[], None], stalls: Mapping[str, int] = _STALLS
) -> AsyncIterator[tuple[str, ...]]:
    """Calls `changed` on the loop when pressure rises; yields the resources that are watched.

    A kernel without it, or one that refuses, watches none.
    """
    files = await asyncio.to_thread(_open, root / "proc/pressure", stalls)
    # The loop's selector knows no EPOLLPRI, so one of our own does, which it can watch.
    ready = select.epoll()
    loop = asyncio.get_running_loop()
    try:
        watched = tuple(name for name, file in files.items() if _register(ready, name, file))
        if watched:
            loop.add_reader(ready.fileno(), _drain, ready, changed)
        yield watched
    finally:
        loop.remove_reader(ready.fileno())
        ready.close()
        # In a thread, to its end: the kernel takes its time to end a trigger.
        await asyncio.shield(asyncio.to_thread(_close, files))


def _open(folder: Path, stalls: Mapping[str, int]) -> dict[str, int]:
    """Triggers by resource, those that the kernel grants."""
    files: dict[str, int] = {}
    for name, stall in stalls.items():
        try:
            files[name] = _trigger(folder / name, f"some {stall} {_WINDOW}")
        except OSError as error:
            log.debug("no events of %s pressure: %s", name, error)
    return files


def _trigger(path: Path, wanted: str) -> int:
    file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(file, wanted.encode() + b"\0")
    except OSError:
        os.close(file)
        raise
    return file


def _register(ready: select.epoll, name: str, file: int) -> bool:
    try:
        ready.register(file, select.EPOLLPRI)
    except OSError as error:  # a file that is not the kernel's
        log.debug("no events of %s pressure: %s", name, error)
        return False
    return True


def _drain(ready: select.epoll, changed: Callable[[], None]) -> None:
    """Some trigger fired. Which one is not told: the loop's look at `ready` took the event."""
    for file, events in ready.poll(0):
        if events & select.EPOLLERR:  # it is gone, and would say so for ever
            ready.unregister(file)
    changed()


def _close(files: Mapping[str, int]) -> None:
    for file in files.values():
        os.close(file)
