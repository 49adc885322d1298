"""A bad network, for the demo and for tests: a TCP proxy that is slow, or cuts.

Faults are injected here, at the transport, so that both sides run as they are.
"""

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_CHUNK = 512
_CONNECT_SECONDS = 10.0
_BURST_SECONDS = 0.05  # a shaped link moves at most this much at once


@dataclass
class Faults:
    """What is wrong with the way up, from device to coordinator. May be changed at any time.

    `rate` is in bytes a second, `None` for as fast as it goes. `cut_after` cuts a connection after
    so many bytes. Both count from the first appearance of `marker` in a connection (`b"PATCH "`,
    say, so that only uploads suffer); an empty marker is there from the start.
    """

    rate: float | None = None
    cut_after: int | None = None
    marker: bytes = b""


class Proxy:
    """`async with Proxy(host, port) as proxy:` listens on `proxy.url`, forwards to host:port.

    `passed` counts the bytes that went up behind the marker; `wait_passed` waits for some.
    """

    def __init__(self, host: str, port: int, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.passed = 0
        self._target = (host, port)
        self._moved = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where a device connects."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """Cut every connection now."""
        for connection in self._connections:
            connection.cancel()

    async def wait_passed(self, count: int) -> None:
        """Until `count` bytes have gone up behind the marker, over all connections."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.passed >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._forward(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_CONNECT_SECONDS):
            up_reader, up_writer = await asyncio.open_connection(*self._target)
        try:
            # The first direction to end ends the connection: its exception stops the other one.
            with contextlib.suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(_until_end(self._pump_up(reader, up_writer)))
                    group.create_task(_until_end(_pump_down(up_reader, writer)))
        finally:
            up_writer.transport.abort()

    async def _pump_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen, behind = b"", 0  # what came before the marker; bytes behind it
        found = not self.faults.marker
        while data := await reader.read(_CHUNK):
            if not found:
                seen = (seen + data)[-_CHUNK - len(self.faults.marker) :]
                found = self.faults.marker in seen
                if not found:
                    await _send(writer, data)
                    continue
            while data:
                piece, data = self._piece(data, behind)
                if not piece:
                    return
                await _send(writer, piece)
                behind += len(piece)
                async with self._moved:
                    self.passed += len(piece)
                    self._moved.notify_all()
                if self.faults.rate:
                    await asyncio.sleep(len(piece) / self.faults.rate)

    def _piece(self, data: bytes, behind: int) -> tuple[bytes, bytes]:
        """What may go now, and the rest. Nothing when the connection is to be cut."""
        size = len(data)
        if self.faults.rate:
            size = min(size, max(1, int(self.faults.rate * _BURST_SECONDS)))
        if self.faults.cut_after is not None:
            size = min(size, self.faults.cut_after - behind)
        return data[: max(size, 0)], data[max(size, 0) :]


async def _until_end(pump: Coroutine[None, None, None]) -> None:
    await pump
    raise ConnectionResetError("one side has closed")


async def _pump_down(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK * 128):
        await _send(writer, data)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
