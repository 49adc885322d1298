"""The door over real sockets: connections, heads and bodies that take too long."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from coordinator.http import door
from coordinator.http.app import application
from coordinator.http.door import Door
from coordinator.server import _Rubbish
from tests.coordinator.plans import constant, plan
from tests.coordinator.raw import Answer, Connection, ask, connected, patch_headers, update_path
from tests.coordinator.serving import Serving, serving
from wire.digest import digest_of


@asynccontextmanager
async def behind_a_door(tmp_path: Path, limit: int = 100) -> AsyncIterator[tuple[Serving, Door]]:
    """A coordinator that a second, bounded port leads to; `Serving` is of that."""
    async with serving(tmp_path / "state") as served:
        runner = web.AppRunner(application(served.coordinator), access_log=None)
        await runner.setup()
        assert runner.server is not None
        made = Door(runner.server, limit, served.coordinator.services.metrics)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(made, "127.0.0.1", 0)
        served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield served, made
        finally:
            server.close()
            await runner.cleanup()


async def closed(connection: Connection) -> bool:
    """Whether the other side has closed a connection without an answer."""
    async with asyncio.timeout(5):
        try:
            return await connection._reader.read(1) == b""
        except ConnectionError:
            return True


async def refused(served: Serving, reason: str) -> float:
    return await served.count(f'lamplighter_connections_refused_total{{reason="{reason}"}}')


async def test_a_head_that_does_not_end_is_cut(tmp_path: Path):
    async with behind_a_door(tmp_path) as (served, made):
        async with connected(served) as silent, connected(served) as drip, connected(served) as ok:
            await drip.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            await ok.request("GET", "/healthz")
            assert (await ok.read()).status == 200
            assert made.open == 3
            served.clock.leap(door.HEAD_SECONDS - 1)
            await drip.send(b"A: b\r\n")
            await asyncio.sleep(0.02)
            assert made.open == 3
            served.clock.leap(2)
            assert await closed(silent)
            assert await closed(drip)
            await ok.request("GET", "/healthz")
            assert (await ok.read()).status == 200
        await served.until(lambda: made.open == 0)
        assert await refused(served, "slow_headers") == 2


async def test_a_head_in_pieces_is_a_head(tmp_path: Path):
    async with behind_a_door(tmp_path) as (served, _), connected(served) as pieces:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n":
            await pieces.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await pieces.read()).status == 200
        served.clock.leap(door.HEAD_SECONDS + 1)
        await pieces.request("GET", "/healthz")
        assert (await pieces.read()).status == 200


async def test_above_the_limit_a_connection_hears_503(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with behind_a_door(tmp_path, limit=2) as (served, made):
        async with connected(served) as first, connected(served):
            await first.request("GET", "/healthz")
            assert (await first.read()).status == 200
            await served.until(lambda: made.open == 2)
            for _ in range(3):
                async with connected(served) as third:
                    answer = await third.read()
                assert answer.status == 503
                assert answer.code == "full"
                assert answer.headers["retry-after"]
            await first.request("GET", "/healthz")
            assert (await first.read()).status == 200
        await served.until(lambda: made.open == 0)
        assert (await ask(served, "GET", "/healthz")).status == 200
        assert await refused(served, "too_many") == 3
    said = [r.message for r in caplog.records if "--max-connections is 2" in r.message]
    assert len(said) == 1


async def test_a_message_that_drips_is_given_up(tmp_path: Path):
    async with behind_a_door(tmp_path) as (served, _), connected(served) as drip:
        device = await served.device()
        headers = {"Authorization": f"Bearer {device.secret}", "Content-Length": "1000"}
        await drip.request("POST", "/v1/check-in", headers, b"{")
        for _ in range(3):
            await asyncio.sleep(0.02)
            served.clock.leap(9)
            await drip.send(b" ")
        await asyncio.sleep(0.02)
        served.clock.leap(9)
        answer = await drip.read()
        assert answer.status == 408
        assert answer.code == "cut"
        assert await refused(served, "slow_body") == 1


async def uploading(served: Serving, slow: Connection, size: int, pieces: int) -> Answer:
    """What an upload of 100,000 bytes hears that brings `size` of them each 20 s."""
    device = await served.device()
    assignment = await device.take()
    data = b"x" * 100_000
    await device.announce(assignment, len(data), digest_of(data))
    headers = patch_headers(device, 0, len(data))
    await slow.request("PATCH", update_path(assignment), headers, b"x" * size)
    for _ in range(pieces - 1):
        await asyncio.sleep(0.03)
        served.clock.leap(20)
        await slow.send(b"x" * size)
    return await slow.read()


async def test_an_upload_at_five_hundred_bytes_a_second_gets_through(tmp_path: Path):
    async with behind_a_door(tmp_path) as (served, _), connected(served) as slow:
        await plan(goal=1, deadline="2h").create(served.admin)
        # All of it is here: it is no update, which only who has read all of it can say.
        assert (await uploading(served, slow, 10_000, 10)).code == "bad_compression"


async def test_an_upload_that_drips_is_cut_and_what_came_stays(tmp_path: Path):
    async with behind_a_door(tmp_path) as (served, _), connected(served) as slow:
        await plan(goal=1, deadline="2h").create(served.admin)
        answer = await uploading(served, slow, 10, 6)
        assert (answer.status, answer.code) == (408, "cut")
        assert await refused(served, "slow_body") == 1
        parts = served.coordinator.services.parts
        (held,) = await asyncio.to_thread(parts.held)
        assert await asyncio.to_thread(parts.size, held) > 0


async def test_a_head_that_is_too_large_is_refused_without_a_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    rubbish = _Rubbish()
    logging.getLogger("aiohttp.server").addFilter(rubbish)
    try:
        async with behind_a_door(tmp_path) as (served, _):
            async with connected(served) as large:
                await large.request("GET", "/healthz", {"X": "x" * 9000})
                assert (await large.read()).status == 400
            async with connected(served) as many:
                await many.request("GET", "/healthz", {f"X-{n}": "x" for n in range(200)})
                assert (await many.read()).status == 400
    finally:
        logging.getLogger("aiohttp.server").removeFilter(rubbish)
    assert not [r for r in caplog.records if r.name == "aiohttp.server"]


async def test_a_round_goes_through_the_door(tmp_path: Path):
    async with behind_a_door(tmp_path) as (served, made):
        await plan(goal=1).create(served.admin)
        device = await served.device()
        await device.serve(constant(1.0))
        await served.round_ends(1)
        await served.until(lambda: made.open == 0)
