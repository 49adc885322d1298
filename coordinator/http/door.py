"""The door: how many connections come in, and how long one may take to ask for something.

aiohttp bounds the sizes of a request's head (8 kB a line, 128 headers), closes a connection that
idles after an answer, and leaves to us: a first request that never comes to the end of its head, a
peer that is gone while we send, and the number of connections.

    server = await loop.create_server(Door(runner.server, limit, metrics), host, port)
"""

import asyncio
import logging
import re
import socket
import time
from typing import cast

import msgspec
from aiohttp import web

from coordinator.errors import RETRY
from coordinator.metrics import Metrics
from wire.messages import PROBLEM_TYPE, Problem

log = logging.getLogger(__name__)

HEAD_SECONDS = 20.0
"""For the head of a connection's first request, from its start."""
_UNREAD_SECONDS = 120.0  # that a peer may leave what we send unread
_SAY_SECONDS = 30.0
_END_OF_HEAD = re.compile(rb"\n\r?\n")


class Door:
    """A protocol factory over aiohttp's own. `limit`: connections at once; above it a new one hears
    503 and is closed."""

    def __init__(self, server: web.Server, limit: int, metrics: Metrics) -> None:
        self._server = server
        self._limit = limit
        self._metrics = metrics
        self._said = float("-inf")
        self._turned_away = 0
        self.open = 0

    def __call__(self) -> asyncio.Protocol:
        return _Full(self) if self.open >= self._limit else _Connection(self, self._server())

    def entered(self) -> None:
        """A connection is open."""
        self.open += 1
        self._metrics.connections.inc()

    def left(self) -> None:
        """It is closed."""
        self.open -= 1
        self._metrics.connections.dec()

    def cut(self, reason: str) -> None:
        """One was closed by us."""
        self._metrics.cut_off.labels(reason).inc()

    def turned_away(self) -> None:
        """One was not let in: said now and then, not each time."""
        self.cut("too_many")
        self._turned_away += 1
        if time.monotonic() - self._said >= _SAY_SECONDS:
            log.warning(
                "%d connections refused: %d are open, and --max-connections is %d",
                *(self._turned_away, self.open, self._limit),
            )
            self._said, self._turned_away = time.monotonic(), 0


class _Connection(asyncio.Protocol):
    """What aiohttp does with a connection, and a timer until its first request is here."""

    def __init__(self, door: Door, inner: asyncio.Protocol) -> None:
        self._door = door
        self._inner = inner
        self._head = b""
        self._timer: asyncio.TimerHandle | None = None
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._door.entered()
        _bound_sending(transport)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(HEAD_SECONDS, self._cut, cast(asyncio.Transport, transport))
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if _END_OF_HEAD.search(self._head + data):
            self._heard()
        else:
            self._head = (self._head + data)[-3:]
        self._inner.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._heard()
        self._door.left()
        self._inner.connection_lost(error)

    def _heard(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # From here on there is nothing to look for.
        self.data_received = self._inner.data_received  # type: ignore[method-assign]

    def _cut(self, transport: asyncio.Transport) -> None:
        self._timer = None
        self._door.cut("slow_headers")
        transport.abort()


class _Full(asyncio.Protocol):
    """No room: says so and closes."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._door.turned_away()
        sending = cast(asyncio.Transport, transport)
        sending.write(_ANSWER)
        sending.close()


def _answer() -> bytes:
    problem = Problem(
        type="urn:lamplighter:problem:full",
        title="Unavailable",
        status=503,
        code="full",
        detail="as many connections are open as there may be: try again later",
    )
    body = msgspec.json.encode(problem)
    head = [
        "HTTP/1.1 503 Service Unavailable",
        f"Content-Type: {PROBLEM_TYPE}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in RETRY.items()),
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


_ANSWER = _answer()


def _bound_sending(transport: asyncio.BaseTransport) -> None:
    """The kernel ends a connection whose peer takes nothing of what we send."""
    found = transport.get_extra_info("socket")
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if found is not None and option is not None and found.family != socket.AF_UNIX:
        found.setsockopt(socket.IPPROTO_TCP, option, int(_UNREAD_SECONDS * 1000))
