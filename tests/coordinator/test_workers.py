"""The supervisor of `serve --workers`, over real processes that only say that they live."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import psutil
import pytest

from coordinator import lifeline
from coordinator.workers import Supervisor

SILENT = 3.0  # seconds; a worker says three times in it that it lives
_LIVES = """
import asyncio, sys
from coordinator.lifeline import Worker

async def live():
    stopping = asyncio.Event()
    async with Worker(int(sys.argv[-1])).serving(stopping):
        await stopping.wait()

asyncio.run(live())
"""
_HANGS_AT_THE_END = _LIVES.replace("await stopping.wait()", "pass") + "import time\ntime.sleep(600)"


@asynccontextmanager
async def supervised(script: str, number: int) -> AsyncIterator[None]:
    """So many workers are started, and started again."""
    ready, stopping = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        supervisor = Supervisor([sys.executable, "-c", script], number, SILENT)
        group.create_task(supervisor.run(ready, stopping))
        async with asyncio.timeout(30.0):
            await ready.wait()
        try:
            yield
        finally:
            stopping.set()


async def pids() -> set[int]:
    """The workers that are there."""
    return await asyncio.to_thread(lambda: {each.pid for each in psutil.Process().children()})


async def until(fact: Callable[[set[int]], bool]) -> None:
    """Wait until the workers are so."""
    async with asyncio.timeout(20.0):
        while not fact(await pids()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_one_that_stays_stopped_is_ended_and_another_starts(
    caplog: pytest.LogCaptureFixture,
):
    others = await pids()
    async with supervised(_LIVES, 2):
        stopped, other = await pids() - others
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda now: stopped not in now and len(now - others) == 2)
        assert other in await pids()
        said = [r.getMessage() for r in caplog.records if f"process {stopped}, " in r.getMessage()]
        assert len(said) == 1
        assert "has said nothing for 3 s" in said[0]
    assert await pids() <= others


async def test_one_that_ends_its_line_and_does_not_end_is_ended(caplog: pytest.LogCaptureFixture):
    others = await pids()
    async with supervised(_HANGS_AT_THE_END, 1):
        (hangs,) = await pids() - others
        await until(lambda now: hangs not in now)
    assert "has said nothing" in caplog.text


async def test_whoever_was_away_itself_does_not_count_that_as_silence():
    own, its = socket.socketpair()
    with own, its:
        own.setblocking(False)
        its.setblocking(False)
        listening = asyncio.create_task(lifeline.silence(own, SILENT))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        real, away = loop.time, 3600.0
        loop.time = lambda: real() + away  # type: ignore[method-assign]
        for _ in range(10):
            await asyncio.sleep(0.01)
            its.send(b".")
        assert not listening.done()
        listening.cancel()


async def test_silence_that_goes_on_is_heard():
    own, its = socket.socketpair()
    with own, its:
        own.setblocking(False)
        its.setblocking(False)
        its.send(b"...")
        async with asyncio.timeout(5.0):
            await lifeline.silence(own, 0.2)
