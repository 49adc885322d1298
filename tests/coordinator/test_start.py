"""What a coordinator opens, it closes."""

import threading
from pathlib import Path

from coordinator.bench import Bench
from coordinator.start import open_coordinator
from tests.coordinator.test_bench import WORK

OURS = ("hand", "store")


def _ours() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(OURS)]


async def test_no_thread_of_ours_is_left_once_a_coordinator_is_closed(tmp_path: Path):
    async with open_coordinator(tmp_path / "state") as coordinator:
        await coordinator.services.hand.do(Bench.total, WORK, 1)
        assert {name.split("_")[0].split("-")[0] for name in _ours()} == set(OURS)
    assert not _ours()
