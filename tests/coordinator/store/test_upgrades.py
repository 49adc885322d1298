"""A SQLite file of the version before is opened, with all that is in it; a crash leaves the old one
or the new one."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.store import tasks, upgrades
from coordinator.store.opening import DATABASE_FILE, connect
from coordinator.store.sql import StoreError
from coordinator.store.sqlite import open_sqlite
from schedules.clock import SystemClock
from tests.coordinator.store.earlier import FILL, SCHEMA, holds_what_was_said

OWN = Path(tasks.__file__).with_name("sqlite.sql")


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """These tests have the file in their hands, on the loop."""


def database_before(state: Path) -> None:
    """One that version 2 wrote."""
    state.mkdir(mode=0o700)
    with closing(sqlite3.connect(state / DATABASE_FILE)) as database, database:
        database.executescript(SCHEMA.read_text() + OWN.read_text())
        for text, values in FILL:
            database.execute(text.replace("$", "?"), values)


async def test_a_database_of_the_version_before_is_opened(tmp_path: Path):
    database_before(tmp_path / "state")
    for _ in range(2):
        async with open_sqlite(tmp_path / "state", "node", SystemClock()) as store:
            await holds_what_was_said(store)
    with closing(connect(tmp_path / "state")) as database:
        tables = {row["name"] for row in database.execute("SELECT name FROM sqlite_master")}
        assert "evaluations_2" not in tables
        assert {"spreads", "evaluations", "evaluations_by_device"} <= tables


async def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    database_before(tmp_path / "state")
    before, after = upgrades.SQLITE["2"]
    monkeypatch.setitem(upgrades.SQLITE, "2", (before, f"{after} SELECT 1 FROM nowhere;"))
    with pytest.raises(StoreError, match="nowhere"):
        async with open_sqlite(tmp_path / "state", "node", SystemClock()):
            pass
    monkeypatch.undo()
    with closing(connect(tmp_path / "state")) as database:
        (found,) = database.execute("SELECT value FROM meta").fetchone()
        assert found == "2"
    async with open_sqlite(tmp_path / "state", "node", SystemClock()) as store:
        await holds_what_was_said(store)
