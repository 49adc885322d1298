"""What devices say of a version, in PostgreSQL: the same figures as in Python."""

import asyncio

import pytest

from coordinator.store import evaluations
from coordinator.store.postgres import Limits, PostgresStore, open_postgres
from coordinator.store.sql import Steps, StoreUnavailable, rows
from schedules.clock import SystemClock
from tests.coordinator.store.evaluating import asked_of


async def test_what_devices_say_in_postgres(store: PostgresStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluations, "_CLEARED", 7)
    await asked_of(store)


async def test_those_that_look_long_come_one_after_the_other_and_have_a_bound(url: str):
    def slow() -> Steps[None]:
        yield from rows("SELECT pg_sleep(0.4)")

    limits = Limits(acquire=0.1)
    async with open_postgres(url, "one", SystemClock(), limits) as store:
        first = asyncio.ensure_future(store.survey(slow))
        await asyncio.sleep(0.05)
        with pytest.raises(StoreUnavailable, match="takes too long"):
            await store.survey(rows, "SELECT 1")
        await store.read(rows, "SELECT 1")
        await first
        await store.survey(rows, "SELECT 1")
