"""Rounds of SCAFFOLD over real HTTP: what the coordinator adds to each model, over kills, too."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest

from coordinator.client import AdminClient, ClientError
from coordinator.server import ENDPOINT_FILE
from fleet.clients import Device
from tests.coordinator.plans import PARAMETERS, plan, weights
from tests.coordinator.processes import served_process
from tests.coordinator.serving import Serving
from wire import checkpoint
from wire.checkpoint import Weights
from wire.plan import Parameter

FLEET, GOAL, SECONDS = 6, 2, 30.0
TABLE = f"[aggregation]\nkind = 'scaffold'\ndevices = {FLEET}\nmax_steps = 50\nby = 'uniform'"
GIVEN = tuple(Parameter(name=f"control/{p.name}", shape=p.shape) for p in PARAMETERS)
MADE = plan(goal=GOAL, sections=TABLE, given=GIVEN, over_selection=1)


async def serve(device: Device, seed: int) -> Weights:
    """Deliver a change that was made in ten steps; returns it."""
    delta = weights(seed=seed)
    work = await device.take()
    await device.deliver(work, device.write(work, delta, steps=10))
    return delta


async def test_the_control_variates_travel_with_each_model(served: Serving):
    await MADE.create(served.admin)
    devices = await served.devices(GOAL)
    before = await served.model()
    for number in (1, 2):
        deltas = []
        for n, device in enumerate(devices):
            served.clock.leap(200.0)
            deltas.append(await serve(device, 10 * number + n))
        await served.round_ends(number)
        after = await served.model()
        for p in PARAMETERS:
            mean = np.mean([d[p.name] for d in deltas], axis=0)
            control = before[f"control/{p.name}"]
            expected = control + GOAL / FLEET * (mean / 10 - control)
            np.testing.assert_allclose(after[f"control/{p.name}"], expected, rtol=1e-4, atol=1e-8)
            np.testing.assert_allclose(after[p.name], before[p.name] + mean, rtol=1e-5, atol=1e-6)
        before = after


@pytest.mark.parametrize("kind", ["fedavg", "scaffold"])
async def test_a_plan_that_contradicts_its_task_is_refused(served: Serving, kind: str):
    table, given = (TABLE, ()) if kind == "scaffold" else ("", GIVEN)
    with pytest.raises(ClientError, match=f"aggregation.kind is {kind}, and the plan corrects"):
        await plan(goal=GOAL, sections=table, given=given).create(served.admin)


@asynccontextmanager
async def _serving(state: Path) -> AsyncIterator[tuple[Popen[bytes], AdminClient]]:
    """A coordinator process, killed on the way out."""
    await asyncio.to_thread((state / ENDPOINT_FILE).unlink, missing_ok=True)
    stack = ExitStack()
    try:
        process, _ = await asyncio.to_thread(stack.enter_context, served_process(state))
        async with await asyncio.to_thread(AdminClient.of_state, state) as admin:
            yield process, admin
    finally:
        await asyncio.to_thread(stack.close)


async def _version(admin: AdminClient, version: int) -> None:
    async with asyncio.timeout(SECONDS):
        while (await admin.task("digits")).task.version < version:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def _played(state: Path, kills: tuple[int, ...]) -> bytes:
    """The model after two rounds; the process is killed after so many updates, as soon as the last
    of them is acknowledged."""
    async with AsyncExitStack() as stack:
        process, admin = await stack.enter_async_context(_serving(state))
        await MADE.create(admin)
        token = await admin.token(GOAL, 3600.0)
        devices = 2 * [await Device.enroll(admin.url, token) for _ in range(GOAL)]
        for n, device in enumerate(devices):
            if n in kills:
                process.kill()
                await stack.aclose()
                process, admin = await stack.enter_async_context(_serving(state))
            await _version(admin, n // GOAL)
            device.url = admin.url
            await serve(device, n)
        await _version(admin, 2)
        return await admin.blob((await admin.task("digits")).task.model)


async def test_two_rounds_lose_nothing_by_kills_within_and_between_them(tmp_path: Path):
    unhurt = await _played(tmp_path / "never", ())
    assert await _played(tmp_path / "killed", (1, 2)) == unhurt
    found = checkpoint.read(unhurt, PARAMETERS + GIVEN)
    assert all(found[p.name].any() for p in GIVEN)
