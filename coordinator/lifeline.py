"""The line between a worker and whoever started it: on it each learns that the other is no more.

A worker says that it serves and, from then on, that it lives; it hears nothing. When the line ends,
so has the other end. A worker that is stopped (SIGSTOP), or whose loop is wedged, ends nothing and
says nothing: it is known by its silence.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

log = logging.getLogger(__name__)

_READY = b"ready\n"
_ALIVE = b"."
_ALIVE_SECONDS = 1.0
_LOOKS = 10  # within the time after which silence counts


@dataclass(frozen=True)
class Worker:
    """One process of several that serve together. `line` is a socket's file descriptor, whose other
    end is held by whoever started it."""

    line: int

    @asynccontextmanager
    async def serving(self, stopping: asyncio.Event) -> AsyncIterator[None]:
        """While this lasts, say that it serves and lives. When the other end is gone, so is whoever
        watches over this process: it stops."""
        loop = asyncio.get_running_loop()
        next_word: asyncio.TimerHandle | None = None
        with socket.socket(fileno=self.line) as line:
            line.setblocking(False)
            line.send(_READY)

            def gone() -> None:
                loop.remove_reader(line)
                log.error("whoever started this worker is gone: it stops")
                stopping.set()

            def say() -> None:
                nonlocal next_word
                with suppress(OSError):  # nobody reads: `gone` hears of it if that is for good
                    line.send(_ALIVE)
                next_word = loop.call_later(_ALIVE_SECONDS, say)

            loop.add_reader(line, gone)
            say()
            try:
                yield
            finally:
                if next_word is not None:
                    next_word.cancel()
                loop.remove_reader(line)


async def serves(line: socket.socket, seconds: float) -> bool:
    """Whether the worker at the other end says that it serves, within so many seconds and before it
    ends."""
    line.setblocking(False)
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().sock_recv(line, len(_READY)) == _READY
    except (TimeoutError, ConnectionError):
        return False


async def silence(line: socket.socket, seconds: float) -> None:
    """Returns when nothing was heard of the worker for so many seconds, in which this process was
    there to hear: it looks several times in that time, so what stops both of them, as a container
    that is paused, counts as one look."""
    looks = 0
    while looks < _LOOKS:
        try:
            async with asyncio.timeout(seconds / _LOOKS):
                said = await _said(line)
        except TimeoutError:
            looks += 1
            continue
        if not said:  # it ends, and has as long for that
            await asyncio.sleep(seconds)
            return
        looks = 0


async def _said(line: socket.socket) -> bytes:
    """The next that is heard; nothing at the line's end."""
    try:
        return await asyncio.get_running_loop().sock_recv(line, 64)
    except ConnectionError:
        return b""
