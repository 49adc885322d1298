"""Pressure as a source of events: the running kernel's, and kernels that have none."""

import asyncio
import multiprocessing
import os
from pathlib import Path

import pytest

from edge_agent.signals.psi import psi_events

HERE = Path("/")


def granted(resource: str = "cpu") -> bool:
    """Whether this kernel lets us watch."""
    try:
        file = os.open(f"/proc/pressure/{resource}", os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return False
    os.close(file)
    return True


here = pytest.mark.skipif(not granted(), reason="this kernel tells no pressure")


def spin() -> None:
    while True:
        pass


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@here
async def test_the_kernel_tells_when_programs_wait_for_the_processor():
    pressed = asyncio.Event()
    many = 2 * (os.cpu_count() or 1)
    spawn = multiprocessing.get_context("spawn")
    async with psi_events(HERE, pressed.set, {"cpu": 1000}) as watched:
        assert watched == ("cpu",)
        spinners = [spawn.Process(target=spin, daemon=True) for _ in range(many)]
        try:
            await asyncio.to_thread(lambda: [spinner.start() for spinner in spinners])
            async with asyncio.timeout(30.0):
                await pressed.wait()
        finally:
            for spinner in spinners:
                spinner.kill()
            await asyncio.to_thread(lambda: [spinner.join() for spinner in spinners])


@here
async def test_it_watches_all_that_there_is_and_leaves_nothing_open():
    before = await asyncio.to_thread(descriptors)
    async with psi_events(HERE, lambda: None) as watched:
        assert "cpu" in watched
        assert await asyncio.to_thread(descriptors) == before + len(watched) + 1
    assert await asyncio.to_thread(descriptors) == before


@here
async def test_what_the_kernel_refuses_is_not_watched():
    longer_than_the_window = 3_000_000
    async with psi_events(HERE, lambda: None, {"cpu": longer_than_the_window}) as watched:
        assert watched == ()


@pytest.mark.parametrize("files", [(), ("cpu", "io")])
async def test_a_machine_without_it_watches_nothing(tmp_path, files):
    folder = tmp_path / "proc/pressure"
    await asyncio.to_thread(folder.mkdir, parents=True)
    for file in files:  # not the kernel's
        await asyncio.to_thread((folder / file).write_text, "some avg10=0.00")
    before = await asyncio.to_thread(descriptors)
    async with psi_events(tmp_path, lambda: None) as watched:
        assert watched == ()
    assert await asyncio.to_thread(descriptors) == before


async def test_it_is_closed_when_something_breaks_inside():
    before = await asyncio.to_thread(descriptors)

    async def breaks() -> None:
        async with psi_events(HERE, lambda: None):
            raise LookupError

    with pytest.raises(LookupError):
        await breaks()
    assert await asyncio.to_thread(descriptors) == before
