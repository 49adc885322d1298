"""The demo's processes, real ones."""

import asyncio
import time
from pathlib import Path

import psutil

from fleet.demo.processes import Processes

# `timeit` runs what it is given, in a process that is started like one of our commands.
_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"


def _children() -> list[psutil.Process]:
    return psutil.Process().children()


def _size(path: Path) -> int:
    return path.stat().st_size


async def test_those_that_do_not_stop_are_waited_for_at_once(tmp_path: Path) -> None:
    others = await asyncio.to_thread(_children)
    async with Processes(tmp_path, patience=0.5) as processes:
        names = [f"deaf-{number}" for number in range(4)]
        for name in names:
            await processes.start(name, "timeit", "-n1", "-r1", "-s", _DEAF, "time.sleep(600)")
        async with asyncio.timeout(20.0):
            for name in names:
                while not await asyncio.to_thread(_size, processes.log(name)):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        started = time.monotonic()
    assert 0.5 <= time.monotonic() - started < 1.5  # not each after the other
    assert await asyncio.to_thread(_children) == others
