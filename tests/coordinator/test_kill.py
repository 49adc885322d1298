"""SIGKILL at twenty random moments of running rounds: what was acknowledged counts, and once.

Real processes, real sockets, real files. Each device's delta is 1 at its own index and 0 elsewhere,
all with equal examples, so a published model shows which updates were counted and how often.
"""

import asyncio
import random
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import numpy as np
import pytest

from coordinator.client import AdminClient, ClientError
from coordinator.start import admin_token
from coordinator.store.opening import DATABASE_FILE
from edge_agent.errors import Offline, Rejected
from fleet.clients import Device, NoWork, SlowDevice
from tests.coordinator.plans import plan
from wire import checkpoint
from wire.digest import hex_of
from wire.plan import Parameter

DEVICES = 12
PARAMETERS = (Parameter(name="w", shape=(DEVICES,)),)
_START_SECONDS = 30.0
_ROUNDS_SECONDS = 60.0
_MOMENTS_SECONDS = 5.0

Acknowledged = set[tuple[int, str]]
"""(round, device) of each update that the coordinator said it has."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("late", "kills"), [("refuse", 20), ("fold", 8)])
async def test_killed_at_random_moments_it_counts_each_acknowledged_update_once(
    tmp_path: Path, late: str, kills: int
) -> None:
    rng = random.Random(20)
    port, acknowledged = _free_port(), Acknowledged()
    indices: dict[str, int] = {}
    stop = asyncio.Event()
    made = plan(
        parameters=PARAMETERS,
        initial={"w": np.zeros(DEVICES, "<f4")},
        goal=8,
        late=late,
        staleness_exponent=0.0,
        # Devices ask at once and again. So often that whoever was not chosen soon is: some of the
        # others rest, since rounds closed before their slow uploads were done.
        sections="[schedule]\nround_deadline = '1h'\ncheck_in = '50ms'",
    )
    async with asyncio.TaskGroup() as group:
        async with _serving(tmp_path, port) as admin:
            await made.create(admin)
            token = await admin.token(DEVICES, 3600.0)
            for index in range(DEVICES):
                device = await _device(admin.url, token, slow=index % 4 == 0)
                indices[device.id] = index
                group.create_task(_live(device, index, acknowledged, stop, random.Random(index)))
            await asyncio.sleep(rng.uniform(0, 0.05))
        for kill in range(kills - 1):
            async with _serving(tmp_path, port):
                await _moments(rng, kill, acknowledged)
        async with _serving(tmp_path, port) as admin:
            await _two_more_rounds(admin)
            stop.set()
    assert len(acknowledged) > kills, "too few updates got through for the test to mean anything"
    await asyncio.to_thread(_check, tmp_path, indices, acknowledged)


def _check(state: Path, indices: Mapping[str, int], acknowledged: Acknowledged) -> None:
    """The journal holds each acknowledged update, and each model is made of just those that count
    in its round, once each."""
    with closing(sqlite3.connect(state / DATABASE_FILE)) as database:
        database.row_factory = sqlite3.Row
        models = [
            _weights(state, row["digest"])
            for row in database.execute("SELECT digest FROM models ORDER BY version")
        ]
        rounds = database.execute("SELECT * FROM rounds ORDER BY number").fetchall()
        accepted = database.execute("SELECT * FROM assignments WHERE state = 'accepted'").fetchall()
    assert acknowledged <= {(row["round"], row["device"]) for row in accepted}
    for round_ in rounds:
        counted = [row["device"] for row in accepted if row["counted"] == round_["number"]]
        assert round_["arrived"] == len(counted)
        if round_["phase"] != "closed":
            continue
        times = (models[round_["version"] + 1] - models[round_["version"]]) * len(counted)
        expected = np.zeros(DEVICES)
        for device in counted:
            expected[indices[device]] += 1  # two of one device can count in one round: one late
        np.testing.assert_allclose(times, expected, atol=1e-2)
    assert sum(round_["phase"] == "closed" for round_ in rounds) >= 2


def _weights(state: Path, digest: str) -> np.ndarray:
    return checkpoint.read((state / "blobs" / hex_of(digest)).read_bytes(), PARAMETERS)["w"]


async def _live(
    device: Device, index: int, acknowledged: Acknowledged, stop: asyncio.Event, rng: random.Random
) -> None:
    """Serve round after round, whatever becomes of the coordinator."""
    delta = {"w": np.eye(DEVICES, dtype="<f4")[index]}
    while not stop.is_set():
        await asyncio.sleep(rng.uniform(0, 0.03))
        try:
            assignment = await device.take()
        except (Offline, NoWork):
            continue
        data = device.write(assignment, delta)
        while not stop.is_set():
            try:
                await device.deliver(assignment, data)
                acknowledged.add((assignment.round, device.id))
                break
            except Rejected as error:
                if error.code == "late":
                    break
                if not error.transient:
                    raise
            except Offline:
                await asyncio.sleep(rng.uniform(0, 0.03))


async def _device(url: str, token: str, slow: bool) -> Device:
    """Some are slow enough for a kill to find their uploads half done."""
    if slow:
        return await SlowDevice.enroll(url, token, bytes_per_second=5000.0)
    return await Device.enroll(url, token)


async def _moments(rng: random.Random, kill: int, acknowledged: Acknowledged) -> None:
    """A random while, from at once to a round and more, as fast as rounds go on this machine; and
    not on the very moment of an acknowledgement."""
    wanted = len(acknowledged) + rng.randrange(0, 2 + kill % 12)
    with suppress(TimeoutError):
        async with asyncio.timeout(_MOMENTS_SECONDS):
            while len(acknowledged) < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    await asyncio.sleep(rng.uniform(0, 0.05))


@asynccontextmanager
async def _serving(state: Path, port: int) -> AsyncIterator[AdminClient]:
    """A coordinator process that is killed on the way out."""
    await asyncio.to_thread(state.mkdir, exist_ok=True)
    token = await asyncio.to_thread(admin_token, state)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "coordinator", "serve"),
        *("--state", str(state), "--port", str(port)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with AdminClient(f"http://127.0.0.1:{port}", token) as admin:
            async with asyncio.timeout(_START_SECONDS):
                while not await _answers(admin):
                    assert process.returncode is None, "the coordinator did not start again"
                    await asyncio.sleep(0.01)
            yield admin
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _two_more_rounds(admin: AdminClient) -> None:
    before = (await admin.task("digits")).task.version
    async with asyncio.timeout(_ROUNDS_SECONDS):
        while (await admin.task("digits")).task.version < before + 2:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _answers(admin: AdminClient) -> bool:
    try:
        await admin.tasks()
    except ClientError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
