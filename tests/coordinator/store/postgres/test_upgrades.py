"""A PostgreSQL database of the version before is opened, also by several at once."""

import asyncio

import asyncpg

from coordinator.store.postgres import dialect, open_postgres, schema
from coordinator.store.sql import Query, one
from schedules.clock import SystemClock
from tests.coordinator.store.earlier import FILL, SCHEMA, holds_what_was_said


async def database_before(url: str) -> None:
    """One that version 2 wrote."""
    text = await asyncio.to_thread(SCHEMA.read_text)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(dialect.schema(text) + schema._OWN)
        for statement, values in FILL:
            text, given = dialect.statement(Query(statement, values))
            await connection.execute(text, *given)
    finally:
        await connection.close()


async def test_a_database_of_the_version_before_is_opened(url: str):
    await database_before(url)

    async def start(number: int) -> None:
        async with open_postgres(url, f"node-{number}", SystemClock()) as store:
            found = await store.read(one, "SELECT value FROM meta WHERE key = 'schema_version'")
            assert found is not None
            assert found["value"] == schema.VERSION

    await asyncio.gather(*(start(number) for number in range(4)))
    async with open_postgres(url, "node", SystemClock()) as store:
        await holds_what_was_said(store)


async def test_a_coordinator_of_the_version_before_goes_on_over_it(url: str):
    await database_before(url)
    async with open_postgres(url, "new", SystemClock()) as store:
        await holds_what_was_said(store)
        before = await asyncpg.connect(url)
        await before.execute(
            "INSERT INTO evaluations (task, version, metric, device, value, examples)"
            " VALUES ('digits', 4, 'accuracy', 'device-0', 0.5, 9)"
        )
        await before.close()
