"""Turns: processes that write one SQLite file, fairly.

SQLite lets whoever asks at the right moment have the file; a busy process asks again within
microseconds of its commit, and the others, who sleep between two looks, hardly ever come in. Here
the one who is next holds a lock of its own while it waits, and whoever has just written queues
behind it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.store.sql import StoreUnavailable

_SHORT, _LONG = 0.0005, 0.005  # seconds between two looks; a group takes some milliseconds
_AGAIN = 1.0  # how often somebody still waits for one that has not let go in time


class Turns:
    """Two lock files in a folder. Both locks go with the process, however it ends. Blocking."""

    def __init__(self, folder: Path, timeout: float) -> None:
        """`timeout`: seconds to wait for a turn at most."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._timeout = timeout
        self._hopeless = 0.0  # until then, nobody waits
        self._next = os.open(folder / "next.lock", flags, 0o600)
        self._turn = os.open(folder / "turn.lock", flags, 0o600)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only one. Raises `StoreUnavailable`.

        Where a process holds it for too long, one that was stopped say, those who come after the
        first who has waited for it in vain hear so at once: else each would wait as long, one after
        the other. Now and then one looks again."""
        now = time.monotonic()
        patience = min(_AGAIN, self._timeout) if self._hopeless else self._timeout
        waits = now >= self._hopeless
        try:
            self._acquire_both(now + patience if waits else now)
        except StoreUnavailable:
            if waits:
                self._hopeless = time.monotonic() + _AGAIN
            raise
        self._hopeless = 0.0
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._next)
        os.close(self._turn)

    def _acquire_both(self, deadline: float) -> None:
        self._acquire(self._next, deadline)
        try:
            self._acquire(self._turn, deadline)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)

    def _acquire(self, descriptor: int, deadline: float) -> None:
        pause = _SHORT
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    reason = f"another process has held the database for over {self._timeout:g} s"
                    raise StoreUnavailable(reason) from None
            # Blocking for it would have no bound.
            time.sleep(pause)
            pause = min(pause * 1.5, _LONG)
