"""SIGKILL while a device leaves: it has left, or it has not; nothing of it is there half."""

import asyncio
import random
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

import numpy as np

from coordinator.client import AdminClient
from coordinator.server import ENDPOINT_FILE
from coordinator.store.opening import DATABASE_FILE
from edge_agent.errors import Offline, Rejected
from edge_agent.transport import Transport
from fleet.clients import Device
from tests.coordinator.plans import constant, plan
from tests.coordinator.processes import served_process
from wire import checkpoint
from wire.messages import Left

KILLS = 4


async def test_killed_while_a_device_leaves_it_forgets_all_of_it_or_nothing(tmp_path: Path) -> None:
    rng, state = random.Random(3), tmp_path / "state"
    made = plan(goal=2 * KILLS, minimum=1, over_selection=2)
    async with _serving(state) as (process, admin):
        await made.create(admin)
        leaving = await _enroll(admin, KILLS)
        for device in leaving:
            await device.serve(constant(100.0))
        process.kill()
    for device in leaving:
        async with _serving(state) as (process, admin):
            device.url = admin.url
            sending = asyncio.create_task(_leave(device))
            await asyncio.sleep(rng.uniform(0, 0.02))
            process.kill()
            acknowledged = await sending
        known = await asyncio.to_thread(_known, state, device.id)
        assert not (acknowledged and known)
    async with _serving(state) as (_, admin):
        for device in leaving:
            device.url = admin.url
            await _leave(device)
        assert await admin.devices() == []
        for device in await _enroll(admin, 2 * KILLS):
            await device.serve(constant(1.0))
        async with asyncio.timeout(30.0):
            while (await admin.task("digits")).task.version == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        model = await admin.blob((await admin.task("digits")).task.model)
    after = checkpoint.read(model, made.manifest.parameters)["w"]
    before = checkpoint.read(made.initial, made.manifest.parameters)["w"]
    np.testing.assert_allclose(after - before, 1.0, rtol=1e-5)


async def _leave(device: Device) -> bool:
    """Whether the coordinator said that the device has left."""
    try:
        async with Transport(device.url, device.secret) as transport:
            assert await transport.leave() == Left(dropped=1, published=0)
    except Rejected as error:
        if error.code != "unknown_device":
            raise
    except Offline:
        return False
    return True


def _known(state: Path, device: str) -> bool:
    """Whether the journal has the device and its update; it is all, or nothing."""
    with closing(sqlite3.connect(state / DATABASE_FILE)) as database:

        def found(text: str) -> int:
            return int(database.execute(text, (device,)).fetchone()[0])

        known = bool(found("SELECT count(*) FROM devices WHERE id = ?"))
        assert known == bool(found("SELECT count(*) FROM assignments WHERE device = ?"))
        assert known == bool(found("SELECT count(*) FROM standings WHERE device = ?"))
        payload = "SELECT count(*) FROM payloads JOIN assignments ON id = assignment"
        assert known == bool(found(f"{payload} WHERE device = ?"))
        arrived, held = database.execute(
            "SELECT arrived, (SELECT count(*) FROM payloads) FROM rounds WHERE number = 1"
        ).fetchone()
        assert arrived == held
        return known


@asynccontextmanager
async def _serving(
    state: Path,
) -> AsyncIterator[tuple[subprocess.Popen[bytes], AdminClient]]:
    """A coordinator process; what one that was killed said of itself is no news."""
    await asyncio.to_thread((state / ENDPOINT_FILE).unlink, missing_ok=True)
    stack = ExitStack()
    try:
        process, _ = await asyncio.to_thread(stack.enter_context, served_process(state))
        async with await asyncio.to_thread(AdminClient.of_state, state) as admin:
            yield process, admin
    finally:
        await asyncio.to_thread(stack.close)


async def _enroll(admin: AdminClient, count: int) -> list[Device]:
    token = await admin.token(count, 3600.0)
    return [await Device.enroll(admin.url, token) for _ in range(count)]
