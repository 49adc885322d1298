"""The agent with its real training child, on the plan that ships: stopped in mid-training in every
way, and its models on the way to local programs."""

import asyncio
import os
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
from aiohttp import web

from coordinator.export import complete_model
from edge_agent.child import start_child
from edge_agent.config import PROFILES
from edge_agent.job import Job, Outcome
from edge_agent.models import Info, open_model, read_info
from fleet.digits import PLAN
from tests.coordinator.serving import Serving
from tests.edge_agent.homes import Between, Home, Settle
from tests.edge_agent.processes import gone, wait_gone, wait_kept
from tests.edge_agent.shipped import Children, draw, shipped
from wire import checkpoint, update
from wire.checkpoint import Weights
from wire.plan import parse_manifest

LONG = 800  # epochs: two seconds or so


@pytest.fixture
async def one(served: Serving, home: Settle) -> Home:
    """A device with examples, whose updates stay at home."""
    one: Home = await home()
    await asyncio.to_thread(draw, one.examples)
    return one


def no_uploads(request: web.Request) -> web.Response | None:
    return web.Response(status=503) if "/update" in request.path else None


async def trains_long(served: Serving, one: Home, between: Between) -> Children:
    """An agent with real children and an assignment that takes them some time."""
    between.answer = no_uploads
    await (await asyncio.to_thread(shipped, goal=1, epochs=LONG)).create(served.admin)
    children = Children()
    await one.restart(start_job=children)
    return children


def read(path: Path, job: Job) -> tuple[update.UpdateHeader, Weights]:
    """An update, but for the time that it took."""
    assert job.assignment
    parameters = parse_manifest((Path(job.plan) / "manifest.json").read_bytes()).parameters
    found = update.read(path.read_bytes(), parameters, job.assignment.codec)
    return msgspec.structs.replace(found.header, seconds=0.0), found.delta


async def as_if_never_stopped(one: Home, job: Job, folder: Path) -> None:
    """The update that waits is, bit for bit, that of a training without a break."""
    other = folder / "unbroken.update"
    whole = msgspec.structs.replace(
        job, update=str(other), checkpoint=None, evaluate=False, offer=None
    )
    async with start_child(whole, 10.0) as child:
        assert (await child.report()).outcome is Outcome.DONE
    (waiting,) = await one.outbox()
    header, delta = await asyncio.to_thread(read, one.state.update_path(waiting), job)
    expected, wanted = await asyncio.to_thread(read, other, job)
    assert header == expected
    for name, change in delta.items():
        np.testing.assert_array_equal(change, wanted[name])


async def test_a_training_that_was_unplugged_ends_as_if_it_never_had_been(
    served: Serving, one: Home, between: Between, tmp_path: Path
):
    children = await trains_long(served, one, between)

    async def unplug() -> None:
        pid = await children.training()
        await asyncio.to_thread(one.power, False)
        begun = served.clock.monotonic()
        await asyncio.to_thread(wait_gone, pid)
        stopped.append(served.clock.monotonic() - begun)

    stopped: list[float] = []
    unplugging = asyncio.create_task(unplug())
    await one.until(lambda: one.rests and "on_battery" in one.rests[-1].why)
    await unplugging
    assert stopped[0] < 5.0
    work = children.jobs[0].assignment
    assert work
    assert await asyncio.to_thread(one.state.checkpoint_path(work.id).exists)
    await asyncio.to_thread(one.power, True)
    await one.until(lambda: one.rests and "waits to be sent" in one.rests[-1].why)
    first, second = children.reports
    assert first.outcome is Outcome.PREEMPTED
    assert 0 < first.steps == second.resumed_at < second.steps
    assert not await asyncio.to_thread(one.state.checkpoint_path(work.id).exists)
    await as_if_never_stopped(one, children.jobs[0], tmp_path)
    between.answer = lambda request: None
    await one.until(lambda: one.outcomes == ["accepted"])


async def test_a_training_outlives_the_agent_that_is_stopped(
    served: Serving, one: Home, between: Between, tmp_path: Path
):
    children = await trains_long(served, one, between)
    served.clock.leap(400.0)  # past the first check-in's spread
    running = asyncio.create_task(one.agent.run())
    pid = await children.training()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await asyncio.to_thread(gone, pid)
    work = children.jobs[0].assignment
    assert work
    assert await asyncio.to_thread(one.state.checkpoint_path(work.id).exists)
    next_ones = Children()
    await one.restart(start_job=next_ones)
    await one.until(lambda: one.rests and "waits to be sent" in one.rests[-1].why)
    (report,) = next_ones.reports
    assert 0 < report.resumed_at < report.steps
    await as_if_never_stopped(one, next_ones.jobs[0], tmp_path)


async def test_a_training_outlives_the_agent_that_is_killed(
    served: Serving, one: Home, between: Between, tmp_path: Path
):
    await trains_long(served, one, between)
    config = tmp_path / "agent.toml"
    more = (
        "eligibility.max_busy = 100\n"
        'training.checkpoint_every = "50ms"\n'
        '[schedule]\nround_deadline = "1m"\ncheck_in = "100ms"\n'
    )
    await asyncio.to_thread(config.write_text, f"{one.text}\n{more}")
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_agent", "run"),
        *("--state", str(one.state.folder), "--config", str(config)),
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ,
    )
    try:
        await asyncio.to_thread(wait_kept, one.state.checkpoints)
    finally:
        agent.send_signal(signal.SIGKILL)
        await agent.wait()
    assert await one.outbox() == []
    next_ones = Children()
    await one.restart(start_job=next_ones)
    await one.until(lambda: one.rests and "waits to be sent" in one.rests[-1].why)
    (report,) = next_ones.reports
    assert 0 < report.resumed_at < report.steps
    await as_if_never_stopped(one, next_ones.jobs[0], tmp_path)


# The model for local programs


def predict(model: bytes, x: object) -> object:
    import onnxruntime as ort

    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


async def test_a_model_goes_to_local_programs_the_whole_way(served: Serving, one: Home):
    await (await asyncio.to_thread(shipped, goal=1, rounds=2)).create(served.admin)
    await one.configure('models.every = "0s"')
    await one.restart(start_job=start_child)
    current = one.state.models / "digits" / "current.onnx"
    await one.until(lambda: not served.task().running)
    # The last version of a task that is over is evaluated and handed over, too: at the check-in
    # after the round's end, which may come after the update's acknowledgement.
    for _ in range(10):
        info = await asyncio.to_thread(read_info, current)
        if info.version == 2:
            break
        rested = len(one.rests)
        await one.until(lambda rested=rested: len(one.rests) > rested)
    assert (info.task, info.version, info.metric) == ("digits", 2, info.metric)
    assert info.held_out > 0
    weights = checkpoint.write(await served.model())
    graph = await asyncio.to_thread((PLAN / "model.onnx").read_bytes)
    x = np.random.default_rng(1).uniform(size=(3, 64)).astype(np.float32)

    def outputs() -> tuple[object, object]:
        local = open_model("digits", one.state.models).session()
        return local.run(None, {"x": x})[0], predict(complete_model(graph, weights, None), x)

    mine, theirs = await asyncio.to_thread(outputs)
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)


async def test_local_programs_get_a_new_model_once_in_a_while_and_the_last_one_too(
    served: Serving, one: Home
):
    await (await asyncio.to_thread(shipped, goal=1, rounds=3)).create(served.admin)
    await one.configure('models.every = "30m"')
    await one.restart(start_job=start_child)
    current = one.state.models / "digits" / "current.onnx"

    async def adopted() -> Info:
        return await asyncio.to_thread(read_info, current)

    await one.until(lambda: not served.task().running)
    first = await adopted()
    assert first.version == 0
    handed_over = served.clock.now()
    while (last := await adopted()).version == 0:
        assert (served.clock.now() - handed_over).total_seconds() < 2 * 3600.0
        count = len(one.rests)
        await one.until(lambda count=count: len(one.rests) > count)
    assert last.version == 3
    assert last.code == "not_worse"
    elapsed = np.datetime64(last.adopted[:19]) - np.datetime64(first.adopted[:19])
    assert elapsed >= np.timedelta64(30, "m")
    await one.restart(start_job=start_child)  # it is not offered twice
    await one.until(lambda: len(one.rests) > count + 5)
    assert await adopted() == last


@pytest.mark.parametrize(
    "more",
    [
        *(f'profile = "{name}"' for name in PROFILES),
        'training.max_memory = "900 MB"',
        'data.retain = {age = "30d", examples = 1000000, size = "10 MB"}',
    ],
)
async def test_a_round_is_served_under_each_profile_and_limit(
    served: Serving, one: Home, more: str
):
    await (await asyncio.to_thread(shipped, goal=1)).create(served.admin)
    one.text = f"{more}\n{one.text}"
    await one.restart(start_job=start_child)
    await one.until(lambda: one.outcomes == ["accepted"])


@pytest.mark.parametrize("days_ahead", [0, 3])
async def test_old_examples_go_unless_the_clock_may_be_wrong(
    served: Serving, one: Home, between: Between, days_ahead: int
):
    """A clock that is ahead makes every example look old."""
    await (await asyncio.to_thread(shipped, goal=1)).create(served.admin)
    old = one.examples / "old.npz"
    await asyncio.to_thread(shutil.copy, one.examples / "drawn.npz", old)
    await asyncio.to_thread(os.utime, old, (1e9, 1e9))
    between.date = lambda: served.clock.now() - timedelta(days=days_ahead)
    one.text += '\ndata.retain.age = "30d"'
    await one.restart(start_job=start_child)
    await one.until(lambda: one.outcomes == ["accepted"])
    assert await asyncio.to_thread(old.exists) is (days_ahead > 0)
    assert await asyncio.to_thread((one.examples / "drawn.npz").exists)
