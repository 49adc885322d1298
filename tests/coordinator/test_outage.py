"""What is heard of a store that is away or damaged: readiness, two lines of log, an answer."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from coordinator.client import ClientError
from coordinator.store.opening import DATABASE_FILE
from edge_agent.errors import Rejected
from tests.coordinator.plans import constant, plan
from tests.coordinator.raw import Answer, ask
from tests.coordinator.serving import Serving, denied, serving


async def test_not_ready_while_nothing_can_be_written_and_ready_again_after_it(served: Serving):
    async def ready(credential: str | None = None) -> Answer:
        return await ask(served, "GET", "/readyz", credential=credential)

    assert (await ready()).status == 200
    with denied(served, sqlite3.SQLITE_UPDATE, "driver"):
        unready, told = await ready(), await ready(served.token)
    assert (unready.status, unready.code) == (503, "storage")
    assert int(unready.headers["retry-after"]) > 0
    assert "sqlite" not in unready.problem.detail, "whoever asks is not told where things are"
    assert "coordinator.sqlite cannot be used (not authorized)" in told.problem.detail
    assert (await ready()).status == 200


async def test_an_outage_is_said_when_it_begins_and_when_it_is_over(
    served: Serving, caplog: pytest.LogCaptureFixture
):
    def said(what: str) -> list[str]:
        return [r.getMessage() for r in caplog.records if what in r.getMessage()]

    caplog.set_level(logging.INFO)
    await plan(goal=1, over_selection=1).create(served.admin)
    (device,) = await served.devices(1)
    for outage in (1, 2):
        with denied(served, sqlite3.SQLITE_INSERT, "assignments"):
            for _ in range(5):
                with pytest.raises(Rejected, match="storage"):
                    await device.take()
                await served.admin.tasks()  # what only looks is served meanwhile
                served.clock.leap(3.0)
        assert len(said("storage failed")) == outage
        assert len(said("served again")) == outage - 1
        served.clock.leap(10.0)
        await served.admin.tasks()
        assert len(said("requests are served again, 5 were refused")) == outage


@pytest.mark.parametrize("damage", ["'{'", "'[1]'", "CAST(x'7bff' AS TEXT)"])
async def test_a_damaged_row_is_one_line_for_the_operator_and_harms_nobody_else(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    def spoil(device: str) -> None:
        with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as database, database:
            database.execute(f"UPDATE devices SET facts = {damage} WHERE id = ?", (device,))

    async with serving(tmp_path) as served:
        await plan(goal=1).create(served.admin)
        harmed, other = await served.devices(2)
    await asyncio.to_thread(spoil, harmed.id)
    async with serving(tmp_path) as served:
        harmed.url = other.url = served.url
        answer = await ask(served, "GET", "/v1/blobs/none", credential=harmed.secret)
        assert (answer.status, answer.code) == (500, "damaged_row")
        assert "a row of the database is damaged" in caplog.text
        assert "Traceback" not in caplog.text
        with pytest.raises(ClientError, match="see the log"):
            await served.admin.devices()
        await other.serve(constant(1.0))
        await served.round_ends(1)
        await served.admin.remove(harmed.id)
        assert [device.id for device in await served.admin.devices()] == [other.id]
