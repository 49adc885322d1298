"""The bad network of the demo and the tests, over real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from fleet.proxy import Faults, Proxy


@asynccontextmanager
async def _echo() -> AsyncIterator[tuple[int, bytearray]]:
    """A server that answers each line; what it received, too."""
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            received.extend(data)
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], received


async def _send(port: int, data: bytes) -> bytes:
    """Send, and read until as much came back or the connection ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    back = bytearray()
    try:
        writer.write(data)
        await writer.drain()
        while len(back) < len(data) and (piece := await reader.read(4096)):
            back += piece
    except ConnectionError:
        pass
    finally:
        writer.close()
    return bytes(back)


async def test_it_forwards_both_ways() -> None:
    async with _echo() as (port, received), Proxy("127.0.0.1", port) as proxy:
        assert await _send(proxy.port, b"hello" * 1000) == b"hello" * 1000
        assert bytes(received) == b"hello" * 1000


@pytest.mark.parametrize("after", [0, 1, 700, 4999])
async def test_it_cuts_after_so_many_bytes(after: int) -> None:
    async with (
        _echo() as (port, received),
        Proxy("127.0.0.1", port, Faults(cut_after=after)) as proxy,
    ):
        await _send(proxy.port, b"x" * 5000)
        assert len(received) <= after
        assert proxy.passed == after


async def test_faults_begin_at_the_marker() -> None:
    async with (
        _echo() as (port, received),
        Proxy("127.0.0.1", port, Faults(cut_after=0, marker=b"PATCH ")) as proxy,
    ):
        assert await _send(proxy.port, b"GET /") == b"GET /"
        assert await _send(proxy.port, b"PATCH /") == b""
        assert bytes(received) == b"GET /"


async def test_a_slow_link_takes_its_time() -> None:
    async with (
        _echo() as (port, _),
        Proxy("127.0.0.1", port, Faults(rate=20_000)) as proxy,
    ):
        started = time.monotonic()
        assert await _send(proxy.port, b"x" * 3000) == b"x" * 3000
        assert time.monotonic() - started >= 0.1


async def test_waiting_for_bytes_to_pass() -> None:
    async with _echo() as (port, _), Proxy("127.0.0.1", port) as proxy:
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(proxy.wait_passed(3))
            group.create_task(_send(proxy.port, b"four"))
        assert waiting.done()
        assert proxy.passed == 4
