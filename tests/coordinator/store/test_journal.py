"""What the journal asks, of SQLite."""

from pathlib import Path

from coordinator.store.sqlite import open_sqlite
from schedules.clock import SystemClock
from tests.coordinator.store.journalling import asked_of


async def test_the_journal_over_sqlite(tmp_path: Path):
    async with open_sqlite(tmp_path / "state", "node", SystemClock()) as store:
        await asked_of(store)
