"""Agents that carry something from round to round, before the real coordinator."""

import asyncio

import numpy as np
import pytest

from tests.coordinator.plans import Plan, constant, plan
from tests.coordinator.serving import Serving
from tests.edge_agent.homes import Settle
from tests.edge_agent.plans import SCAFFOLD, flowers, manifest_of, saved
from tests.edge_agent.shipped import Children
from wire.plan import CHECKPOINT_NAME


def scaffold(rounds: int) -> Plan:
    """The compiled plan with control variates, of a fleet of ten, one of which is here."""
    manifest = manifest_of(SCAFFOLD)
    files = [(SCAFFOLD / name).read_bytes() for name in manifest.files]
    text = (SCAFFOLD / "task.toml").read_text().replace("[round]", f"[round]\nrounds = {rounds}")
    return Plan(text, manifest, files, (SCAFFOLD / CHECKPOINT_NAME).read_bytes())


async def test_two_rounds_of_scaffold_with_real_trainings(served: Serving, home: Settle):
    """What the coordinator keeps is a tenth of the mean change a step; the device keeps its own."""
    await (await asyncio.to_thread(scaffold, 2)).create(served.admin)
    one = await home()
    await asyncio.to_thread(saved, one.examples, flowers())
    children = Children()
    for number in range(2):
        await one.restart(start_job=children)
        await one.until(
            lambda number=number: (
                served.task("scaffold").model.version > number
                and one.outcomes == ["accepted"] * (number + 1)
            )
        )
    steps = [report.steps for report in children.reports if report.steps]
    assert not any(report.forgot for report in children.reports)
    models = [await served.model("scaffold", version) for version in range(3)]
    for name in ("w1", "b1", "w2", "b2"):
        first, second, third = (model[f"control/{name}"] for model in models)
        assert not first.any()
        change = (models[1][name] - models[0][name]) / steps[0]
        np.testing.assert_allclose(second, 0.1 * change, rtol=1e-3, atol=1e-7)
        change = (models[2][name] - models[1][name]) / steps[1]
        np.testing.assert_allclose(third, second + 0.1 * (change - second), rtol=1e-3, atol=1e-7)
    left = await asyncio.to_thread(lambda: [p.name for p in one.state.residuals.iterdir()])
    assert left == ["scaffold.carried"]


@pytest.mark.parametrize("outcome", ["accepted", "late"])
async def test_a_round_is_carried_when_its_update_is_accepted(
    served: Serving, home: Settle, outcome: str
):
    await plan(goal=1, over_selection=2.0, deadline="10m").create(served.admin)
    one, other = await home(), await served.device()
    residuals = one.state.residuals
    await asyncio.to_thread((residuals / "digits.carried").write_bytes, b"old")

    async def within() -> None:
        left = residuals / f"digits.{one.trainer.assignments[0]}.carrying"
        await asyncio.to_thread(left.write_bytes, b"new")
        if outcome == "late":
            await other.serve(constant(1.0))
            await served.round_ends(1)

    one.trainer.meanwhile = within
    await one.until(lambda: one.outcomes[:1] == [outcome])
    kept = await asyncio.to_thread(lambda: {p.name: p.read_bytes() for p in residuals.iterdir()})
    assert kept == {"digits.carried": b"new" if outcome == "accepted" else b"old"}
