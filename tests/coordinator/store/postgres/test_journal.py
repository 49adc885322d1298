"""What the journal asks, of PostgreSQL."""

from coordinator.store.postgres import PostgresStore
from tests.coordinator.store.journalling import asked_of


async def test_the_journal_over_postgres(store: PostgresStore):
    await asked_of(store)
