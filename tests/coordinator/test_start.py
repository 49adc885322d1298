"""What a coordinator opens, it closes."""

import asyncio
import threading
from pathlib import Path

from coordinator.start import open_coordinator

OURS = ("intake", "store")


def _ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(OURS)]


async def test_no_thread_of_ours_is_left_once_a_coordinator_is_closed(tmp_path: Path):
    async with open_coordinator(tmp_path / "state") as coordinator:
        await asyncio.get_running_loop().run_in_executor(coordinator.services.hand, int)
        assert {name.split("_")[0].split("-")[0] for name in _ours()} == set(OURS)
    assert not _ours()
