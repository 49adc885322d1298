"""The contract of a store, over a real PostgreSQL server."""

from collections.abc import AsyncIterator

import pytest

from coordinator.store.postgres import PostgresStore, open_postgres
from schedules.clock import SystemClock
from tests.coordinator.store.contract import SharedContract, StoreContract


@pytest.fixture
async def other(url: str, store: PostgresStore) -> AsyncIterator[PostgresStore]:
    async with open_postgres(url, "two", SystemClock()) as opened:
        yield opened


class TestPostgres(StoreContract):
    """One process."""


class TestSharedPostgres(SharedContract):
    """Two processes' stores over one database."""
