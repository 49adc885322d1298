"""A disk that fills up under a real coordinator, just before a model is published."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from coordinator.client import AdminClient
from coordinator.server import ENDPOINT_FILE
from coordinator.views import TaskDetail
from fleet.clients import Device
from tests.coordinator.disks import ballast, disk
from tests.coordinator.plans import plan
from tests.coordinator.processes import served_process
from wire import checkpoint
from wire.checkpoint import Weights
from wire.plan import Parameter

SIZE = 100_000
PARAMETERS = (Parameter(name="w", shape=(SIZE,)),)
DELTAS = np.random.default_rng(3).normal(size=(3, SIZE)).astype("<f4")
ROOM = 1_000_000  # for an update of 370 kB, twice, and not for what is made of three


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with disk(tmp_path / "disk", 32 << 10) as folder:
        yield folder


@pytest.mark.parametrize("kind", ["fedavg", "median"])
def test_too_full_for_the_model_it_keeps_what_it_acknowledged_and_closes_with_room(
    tmp_path: Path, small: Path, kind: str
):
    state = tmp_path / "state"
    (small / "state").mkdir(mode=0o700)
    state.symlink_to(small / "state")  # its log goes to another disk
    heavy = small / "ballast"
    with served_process(state):
        before = asyncio.run(_deliver_all(AdminClient.of_state(state), kind, heavy))
    assert (before.task.version, before.rounds[0].phase, before.rounds[0].updates) == (
        *(0, "closing", 3),
    )
    assert "could not be closed" in (tmp_path / "state.log").read_text()
    (state / ENDPOINT_FILE).unlink()
    heavy.unlink()
    with served_process(state):
        after, model = asyncio.run(_closed(AdminClient.of_state(state)))
    assert [(r.phase, r.updates) for r in after.rounds] == [("closed", 3), ("open", 0)]
    expected = DELTAS.mean(0) if kind == "fedavg" else np.median(DELTAS, 0)
    np.testing.assert_allclose(model["w"], expected, atol=1e-6)


async def _deliver_all(own: AdminClient, kind: str, heavy: Path) -> TaskDetail:
    """Three updates, all acknowledged; before the last one the disk is filled."""
    async with own as admin:
        made = plan(
            goal=3,
            parameters=PARAMETERS,
            initial={"w": np.zeros(SIZE, "<f4")},
            sections=f"[aggregation]\nkind = '{kind}'",
        )
        await made.create(admin)
        token = await admin.token(3, 60.0)
        devices = [await Device.enroll(admin.url, token) for _ in range(3)]
        for device, delta in zip(devices[:2], DELTAS[:2], strict=True):
            await device.serve({"w": delta})
        await asyncio.to_thread(_fill, heavy)
        await devices[2].serve({"w": DELTAS[2]})
        await asyncio.sleep(0.5)  # that it has tried
        return await admin.task("digits")


def _fill(heavy: Path) -> None:
    ballast(heavy.parent)
    os.truncate(heavy, heavy.stat().st_size - ROOM)


async def _closed(own: AdminClient) -> tuple[TaskDetail, Weights]:
    async with own as admin, asyncio.timeout(30):
        while (await admin.task("digits")).task.version == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        detail = await admin.task("digits")
        return detail, checkpoint.read(await admin.blob(detail.task.model), PARAMETERS)
