"""Learners and flipped devices: what they upload, read back as the coordinator reads it."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.compiler.folder import read_plan_dir
from fleet.clients import Device, FlippedDevice
from fleet.digits import PLAN
from fleet.digits.data import deal_alike, load
from fleet.learner import Learner
from tests.coordinator.digits import digits
from tests.coordinator.plans import constant, plan
from tests.coordinator.serving import Serving, serving
from wire import update
from wire.messages import Assignment
from wire.update import Update

PARAMETERS = read_plan_dir(PLAN).manifest.parameters


class Kept(Device):
    """Keeps what it would have sent."""

    sent: bytes = b""

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        self.sent = data


async def learnt(served: Serving, seed: int, examples: Any) -> Update:
    device = await served.device(Kept)
    await Learner(device, PLAN, examples, (seed,)).learn()
    return update.read(device.sent, PARAMETERS, "float32")


async def test_a_learner_trains_and_does_the_same_again_by_the_same_seed(tmp_path: Path):
    examples = deal_alike((await asyncio.to_thread(load))[0], 20)[0]
    async with serving(tmp_path) as served:
        task = await asyncio.to_thread(digits, goal=3, over_selection=1)
        await task.create(served.admin)
        first, again, other = [await learnt(served, seed, examples) for seed in (1, 1, 2)]
    assert (first.header.examples, first.header.steps) == (72, 40)
    assert first.header.loss < 2.3  # which is what guessing costs
    for name, change in first.delta.items():
        assert np.abs(change).max() > 0.01
        np.testing.assert_array_equal(again.delta[name], change)
        assert not np.array_equal(other.delta[name], change)


@pytest.mark.parametrize("scale", [1.0, 10.0])
async def test_a_flipped_update_counts_and_turns_the_model_the_other_way(
    tmp_path: Path, scale: float
):
    delta = constant(0.5)
    async with serving(tmp_path) as served:
        await plan(goal=1).create(served.admin)
        before = await served.model()
        device = await served.device(FlippedDevice, scale=scale)
        await device.serve(delta)
        await served.round_ends(1)
        after = await served.model()
    for name, start in before.items():
        np.testing.assert_allclose(after[name], start - 0.5 * scale, rtol=1e-6)
        assert (delta[name] == 0.5).all()


def test_digits_dealt_alike_are_all_dealt_once():
    pool, _ = load()
    shares = deal_alike(pool, 20)
    sizes = {len(share["label"]) for share in shares}
    assert sizes == {71, 72}
    again = np.concatenate([share["x"] for share in shares])
    assert sorted(map(bytes, again)) == sorted(map(bytes, pool["x"]))
    assert all(len(np.unique(share["label"])) == 10 for share in shares)
