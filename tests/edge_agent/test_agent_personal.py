"""The agent with its real child, on a task of personal models: its update first, then the model of
its local programs; unplugged in the middle of it, and for good."""

import asyncio
import os
import signal
from contextlib import suppress

import msgspec
import numpy as np
import pytest

from edge_agent.handoff import weights_of
from edge_agent.job import Outcome
from edge_agent.keeping import Why
from edge_agent.models import Info, NoModel, read_info
from edge_agent.state import History
from tests.coordinator.plans import Plan
from tests.coordinator.serving import Serving
from tests.edge_agent.homes import Home, Settle
from tests.edge_agent.plans import PERSONAL, flowers, manifest_of, saved
from tests.edge_agent.processes import wait_gone
from tests.edge_agent.shipped import Children
from wire import checkpoint
from wire.checkpoint import Weights
from wire.plan import CHECKPOINT_NAME

ENDLESS = 10_000  # epochs: far more than there is time for


def task(epochs: int = 5, goal: int = 1) -> Plan:
    """The plan of `data/personal`, tuned for so many epochs."""
    manifest = manifest_of(PERSONAL)
    assert manifest.tuning is not None
    tuning = msgspec.structs.replace(manifest.tuning, epochs=epochs)
    text = (PERSONAL / "task.toml").read_text()
    text = text.replace("goal = 1", f"goal = {goal}\nrounds = 1\ndeadline = '1h'")
    return Plan(
        text.replace("[personal]\nepochs = 5", f"[personal]\nepochs = {epochs}"),
        msgspec.structs.replace(manifest, personal=tuning),
        [(PERSONAL / name).read_bytes() for name in manifest.files],
        (PERSONAL / CHECKPOINT_NAME).read_bytes(),
    )


@pytest.fixture
async def one(home: Settle) -> Home:
    """A device with examples that takes every new model."""
    one: Home = await home()
    await asyncio.to_thread(saved, one.examples, flowers())
    await one.configure('models.every = "0s"')
    return one


def local(one: Home, like: Weights) -> Weights:
    """The weights of the model that local programs have."""
    data = (one.state.models / "personal" / "current.onnx").read_bytes()
    graph = (PERSONAL / "model.onnx").read_bytes()
    inside = weights_of(data, graph, checkpoint.write(like))
    return checkpoint.read(inside, manifest_of(PERSONAL).parameters)


async def adopted(one: Home) -> Info:
    return await asyncio.to_thread(read_info, one.state.models / "personal" / "current.onnx")


async def until_version(one: Home, version: int) -> None:
    for _ in range(20):
        with suppress(NoModel):
            if (await adopted(one)).version == version:
                return
        rested = len(one.rests)
        await one.until(lambda rested=rested: len(one.rests) > rested)
    raise AssertionError(f"version {version} never came")


async def test_local_programs_get_a_personal_version_once_the_update_is_sent(
    served: Serving, one: Home
):
    await (await asyncio.to_thread(task)).create(served.admin)
    children = Children()
    await one.restart(start_job=children)
    await one.until(lambda: not served.task("personal").running)
    await until_version(one, 1)
    trained, *others = children.reports
    assert trained.decision is not None
    assert (trained.decision.why, trained.personal) == (Why.LATER, {})
    assert [job.assignment is None for job in children.jobs] == [False] + [True] * len(others)
    last = others[-1]
    assert last.metrics is not None
    info = await adopted(one)
    assert (info.personal, info.value) == (True, last.personal["loss"])
    assert info.published == last.metrics["loss"] > last.personal["loss"]
    # What the fleet has is the published model; what the device has differs in the head alone.
    published = await served.model("personal")
    own = await asyncio.to_thread(local, one, published)
    changed = {name for name in own if not np.array_equal(own[name], published[name])}
    assert changed == {"w2", "b2"}


async def test_the_metrics_of_both_are_told_and_nothing_else(served: Serving, one: Home):
    await (await asyncio.to_thread(task)).create(served.admin)
    children = Children()
    await one.restart(start_job=children)
    await one.until(lambda: len(children.reports) == 1)
    trained = one.agent._ledger.spent().training
    await one.until(lambda: len(children.reports) == 2)
    assert one.agent._ledger.spent().training > trained  # it counts for the day's budget
    history: History = one.agent._history
    (said,) = history.evaluations
    report = children.reports[1]
    assert (said.version, said.examples) == (0, report.held_out)
    assert (said.metrics, said.personal) == (report.metrics, report.personal)
    gained = said.metrics["loss"] - said.personal["loss"]
    await one.until(lambda: not history.evaluations)
    loss, _ = (await served.admin.task("personal")).task.metrics[0]
    assert loss.personal is not None
    assert (loss.personal.devices, loss.personal.gaining) == (1, 1)
    assert loss.personal.mean == pytest.approx(gained)
    assert gained > 0


async def test_a_tuning_is_preempted_within_a_second_and_given_up_after_two(
    served: Serving, one: Home
):
    await (await asyncio.to_thread(task, ENDLESS, goal=2)).create(served.admin)
    await one.restart(start_job=Children())
    await one.until(lambda: one.outcomes == ["accepted"])
    children = Children()
    await one.restart(start_job=children)
    stopped: list[float] = []

    async def unplug() -> None:
        pid = await children.tuning()
        await asyncio.to_thread(one.power, False)
        begun = served.clock.monotonic()
        await asyncio.to_thread(wait_gone, pid)
        stopped.append(served.clock.monotonic() - begun)

    for times in (1, 2):
        unplugging = asyncio.create_task(unplug())
        reports = len(children.reports)
        await one.until(lambda reports=reports: len(children.reports) > reports)
        await unplugging
        assert children.reports[-1].outcome is Outcome.PREEMPTED
        assert len(stopped) == times
        assert not await asyncio.to_thread((one.state.models / "personal").exists)
        await asyncio.to_thread(one.power, True)
    assert max(stopped) < 3.0
    await until_version(one, 0)
    info = await adopted(one)
    assert (info.personal, info.published) == (False, None)


async def test_a_tuning_that_ends_its_child_does_not_cost_the_published_model(
    served: Serving, one: Home
):
    await (await asyncio.to_thread(task, ENDLESS, goal=2)).create(served.admin)
    await one.restart(start_job=Children())
    await one.until(lambda: one.outcomes == ["accepted"])
    children = Children()
    await one.restart(start_job=children)

    async def run_out_of_memory() -> None:
        os.kill(await children.tuning(), signal.SIGKILL)

    killing = asyncio.create_task(run_out_of_memory())
    await until_version(one, 0)
    await killing
    assert [r.outcome for r in children.reports] == [Outcome.CRASHED, Outcome.DONE]
    assert (await adopted(one)).personal is False
