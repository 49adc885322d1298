"""Several coordinator processes over one store, one of them killed in mid-round.

Real processes, real sockets; a real PostgreSQL server, or one SQLite file. Each device's delta is 1
at its own index and 0 elsewhere, all with equal examples, so that the published models show which
updates were counted, and how often.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from blockbuster import BlockBuster

from coordinator.client import AdminClient
from coordinator.server import ENDPOINT_FILE, Endpoint
from coordinator.start import admin_token
from edge_agent.errors import Offline, Rejected
from fleet.clients import Device, NoWork
from tests.coordinator.plans import plan
from tests.coordinator.processes import COMMAND, run
from tests.postgres import NoPostgres, Server, let_asyncpg_connect, server
from wire import checkpoint
from wire.plan import Parameter

DEVICES = 16
PARAMETERS = (Parameter(name="w", shape=(DEVICES,)),)
_START_SECONDS = 30.0

Acknowledged = dict[int, set[str]]
"""By round: the devices whose update some coordinator said it has."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Server]:
    try:
        with server() as running:
            yield running
    except NoPostgres as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def url(postgres: Server, no_blocking_calls: BlockBuster) -> Iterator[str]:
    """An empty database."""
    let_asyncpg_connect(no_blocking_calls)
    with postgres.database() as made:
        yield made


class Running:
    """A coordinator process."""

    def __init__(self, process: asyncio.subprocess.Process, admin: AdminClient) -> None:
        self.process = process
        self.admin = admin

    @property
    def url(self) -> str:
        return self.admin.url


@asynccontextmanager
async def coordinator(state: Path, *options: str) -> AsyncIterator[Running]:
    """A process over `state`, and its workers; killed on the way out."""
    await asyncio.to_thread(state.mkdir, parents=True, exist_ok=True)
    token = await asyncio.to_thread(admin_token, state)
    await asyncio.to_thread((state / ENDPOINT_FILE).unlink, missing_ok=True)  # of one killed before
    with (state / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "serve", "--state", str(state), "--port", "0", *options),
            stderr=log,
            start_new_session=True,
        )
    try:
        endpoint = await _endpoint(state, process)
        async with AdminClient(endpoint.url, token) as admin:
            yield Running(process, admin)
    finally:
        kill(process)
        await process.wait()


def kill(process: asyncio.subprocess.Process) -> None:
    """The process and all that it started, at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _endpoint(state: Path, process: asyncio.subprocess.Process) -> Endpoint:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            assert process.returncode is None, (state / "log").read_text()
            try:
                data = await asyncio.to_thread((state / ENDPOINT_FILE).read_bytes)
                return msgspec.json.decode(data, type=Endpoint)
            except FileNotFoundError:
                await asyncio.sleep(0.05)


class Fleet:
    """Devices that serve round after round at whichever coordinator answers."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.acknowledged: Acknowledged = {}
        self.indices: dict[str, int] = {}
        self.stopped = asyncio.Event()

    async def join(self, token: str, group: asyncio.TaskGroup) -> None:
        for index in range(DEVICES):
            device = await Device.enroll(self.urls[index % len(self.urls)], token)
            self.indices[device.id] = index
            group.create_task(self._live(device, index, random.Random(index)))

    async def _live(self, device: Device, index: int, rng: random.Random) -> None:
        delta = {"w": np.eye(DEVICES, dtype="<f4")[index]}
        while not self.stopped.is_set():
            await asyncio.sleep(rng.uniform(0, 0.05))
            device.url = rng.choice(self.urls)  # as a load balancer would
            try:
                assignment = await device.take()
            except (Offline, NoWork):
                continue
            data = device.write(assignment, delta)
            while not self.stopped.is_set():
                device.url = rng.choice(self.urls)
                try:
                    await device.deliver(assignment, data)
                    self.acknowledged.setdefault(assignment.round, set()).add(device.id)
                    break
                except Rejected as error:
                    if error.code == "late":
                        break
                    raise
                except Offline:
                    await asyncio.sleep(rng.uniform(0, 0.05))


async def check(admin: AdminClient, fleet: Fleet) -> int:
    """Every round that closed, closed once, with every update that was acknowledged, once each.
    Returns how many did."""
    detail = await admin.task("digits")
    models: dict[int, np.ndarray] = {}
    closed = [r for r in detail.rounds if r.phase == "closed"]
    assert [r.version for r in closed] == list(range(len(closed)))
    for record in closed:
        view = await admin.round("digits", record.number)
        accepted = [a.device for a in view.assignments if a.state == "accepted"]
        assert len(set(accepted)) == len(accepted) == record.updates
        assert fleet.acknowledged.get(record.number, set()) <= set(accepted)
        for version in (record.version, record.version + 1):
            if version not in models:
                models[version] = await _model(admin, version)
        sums = (models[record.version + 1] - models[record.version]) * record.updates
        expected = np.zeros(DEVICES)
        expected[[fleet.indices[device] for device in accepted]] = 1
        np.testing.assert_allclose(sums, expected, atol=1e-2)
    return len(closed)


async def _model(admin: AdminClient, version: int) -> np.ndarray:
    digest = (await admin.model("digits", version)).model
    return checkpoint.read(await admin.blob(digest), PARAMETERS)["w"]


async def _until(admin: AdminClient, version: int) -> None:
    async with asyncio.timeout(60):
        while (await admin.task("digits")).task.version < version:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _played(running: list[Running], victim: asyncio.subprocess.Process | int) -> None:
    """A fleet serves; one process is killed in mid-round; the others go on."""
    first, last = running[0], running[-1]
    made = plan(parameters=PARAMETERS, initial={"w": np.zeros(DEVICES, "<f4")}, goal=8)
    await made.create(first.admin)
    fleet = Fleet(list(dict.fromkeys(r.url for r in running)))
    async with asyncio.TaskGroup() as group:
        await fleet.join(await first.admin.token(DEVICES, 3600.0), group)
        await _until(last.admin, 2)
        if isinstance(victim, int):
            os.kill(victim, signal.SIGKILL)
        else:
            kill(victim)
        gone = [r.url for r in running if r.process is victim]
        fleet.urls = [url for url in fleet.urls if url not in gone]
        survivor = next(r for r in running if r.process is not victim)
        await _until(survivor.admin, (await survivor.admin.task("digits")).task.version + 3)
        fleet.stopped.set()
    assert await check(survivor.admin, fleet) >= 5


@pytest.mark.timeout(180)
@pytest.mark.parametrize("victim", [0, 1])
async def test_two_over_one_postgres_one_killed_in_mid_round(
    url: str, tmp_path: Path, victim: int
) -> None:
    async with AsyncExitStack() as stack:
        running = [
            await stack.enter_async_context(coordinator(tmp_path / name, "--store", url))
            for name in ("one", "two")
        ]
        await _played(running, running[victim].process)


@pytest.mark.timeout(180)
async def test_two_workers_over_one_file_one_killed_in_mid_round(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "state", "--workers", "2") as running:
        workers = await asyncio.to_thread(_children, running.process.pid)
        assert len(workers) == 2
        await _played([running], workers[0])


def _children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


async def test_workers_end_with_whoever_started_them(tmp_path: Path) -> None:
    async with coordinator(tmp_path / "state", "--workers", "2") as running:
        workers = await asyncio.to_thread(_children, running.process.pid)
        running.process.kill()  # it alone, and without a chance to tell them
        await running.process.wait()
        async with asyncio.timeout(20):
            while await asyncio.to_thread(_alive, workers):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    async with coordinator(tmp_path / "state") as again:
        assert await again.admin.tasks() == []


async def test_a_worker_that_cannot_start_is_one_clear_error(tmp_path: Path) -> None:
    store = "postgresql://127.0.0.1:9/nothing"
    failed = await asyncio.to_thread(
        run, "serve", "--state", tmp_path, "--port", "0", "--workers", "2", "--store", store
    )
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("error: worker ")


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid)]
