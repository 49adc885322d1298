"""The SQLite store against the contract of all stores."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coordinator.store.sql import StoreUnavailable
from coordinator.store.sqlite import SqliteStore, lock_state, open_sqlite, prepare
from schedules.clock import SystemClock
from tests.coordinator.store.contract import SharedContract, StoreContract

CLOCK = SystemClock()


class TestSqlite(StoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqliteStore]:
        async with open_sqlite(tmp_path / "state", "alone", CLOCK) as store:
            yield store

    async def test_it_says_that_it_is_healthy(self, store: SqliteStore):
        await store.check()
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.check()


@pytest.fixture
def shared_state(tmp_path: Path) -> Iterator[Path]:
    """A state folder that is prepared and held, as for worker processes."""
    with lock_state(tmp_path / "state"):
        prepare(tmp_path / "state", CLOCK)
        yield tmp_path / "state"


class TestSqliteOfOneWorker(StoreContract):
    @pytest.fixture
    async def store(self, shared_state: Path) -> AsyncIterator[SqliteStore]:
        async with open_sqlite(shared_state, "worker-1", CLOCK, shared=True) as store:
            yield store


class TestSqliteShared(SharedContract):
    @pytest.fixture
    async def store(self, shared_state: Path) -> AsyncIterator[SqliteStore]:
        async with open_sqlite(shared_state, "worker-1", CLOCK, shared=True) as store:
            yield store

    @pytest.fixture
    async def other(self, store: SqliteStore, shared_state: Path) -> AsyncIterator[SqliteStore]:
        async with open_sqlite(
            shared_state, "worker-2", CLOCK, shared=True, anchor=store.anchor
        ) as other:
            yield other
