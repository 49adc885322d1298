"""Agents gather statistics as they train: they need not know the difference."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from edge_agent.child import start_child
from edge_agent.models import open_model, read_info
from fleet.learner import Learner
from tests.coordinator.plans import Plan
from tests.coordinator.serving import Serving
from tests.edge_agent.homes import Settle

pytest.importorskip("onnx")  # the compiler's

TASK = """
name = "known"
[statistics]
kind = "moments"
shape = [2]
[round]
goal = 2
rounds = 2
deadline = "1h"
over_selection = 1.0
[schedule]
round_deadline = "1h"
check_in = "500ms"
"""


def moments(folder: Path) -> Plan:
    from coordinator import taskfile
    from coordinator.compiler.compile import compile_beside
    from coordinator.compiler.folder import write_plan_dir

    made = compile_beside(taskfile.parse(TASK), folder)
    write_plan_dir(made, folder / "plan")
    return Plan(TASK, made.manifest, list(made.files.values()), made.initial)


async def test_an_agent_gathers_moments_and_hands_them_to_local_programs(
    served: Serving, home: Settle, tmp_path: Path
):
    """With one other device, that has a single example."""
    plan = await asyncio.to_thread(moments, tmp_path)
    await plan.create(served.admin)
    x = np.random.default_rng(0).normal([1e4, -2.0], [1.0, 3.0], (300, 2)).astype(np.float32)
    other = Learner(await served.device(), tmp_path / "plan", {"x": x[:1]}, (1,))
    one = await home()
    await asyncio.to_thread(np.savez, one.examples / "x.npz", x=x[1:])
    await one.configure('data.hold_out = 0\nmodels.every = "0s"')
    await one.restart(start_job=start_child)
    for version in (1, 2):
        await other.learn()
        counted = ["accepted"] * version
        await one.until(lambda counted=counted: one.outcomes == counted)
        await served.round_ends(version, "known")
    current = one.state.models / "known" / "current.onnx"

    def newest() -> bool:
        return current.exists() and read_info(current).version == 2

    while not await asyncio.to_thread(newest):
        rested = len(one.rests)
        await one.until(lambda rested=rested: len(one.rests) > rested)

    def local() -> list[np.ndarray]:
        names = ["standardised", "mean", "variance"]
        return open_model("known", one.state.models).session().run(names, {"x": x})

    found, mean, variance = await asyncio.to_thread(local)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=2e-7)
    np.testing.assert_allclose(variance, exact.var(0), rtol=3e-6)
    np.testing.assert_allclose(found, (exact - exact.mean(0)) / exact.std(0), atol=2e-3)
