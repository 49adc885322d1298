"""Aggregation strategies over real HTTP: what is sent, what is made of it, what a restart keeps."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from coordinator.store import tasks
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.serving import Serving, serving

DEVICES = 5


async def scratch(served: Serving) -> list[str]:
    folder = served.coordinator.services.scratch
    return await asyncio.to_thread(lambda: [p.name for p in folder.iterdir()])


async def test_the_median_of_a_round_shrugs_off_a_liar(served: Serving):
    await plan(goal=DEVICES, sections="[aggregation]\nkind = 'median'").create(served.admin)
    before = await served.model()
    deltas = [weights(seed=n) for n in range(DEVICES - 1)] + [constant(1e6)]
    for device, delta in zip(await served.devices(DEVICES), deltas, strict=True):
        await device.serve(delta, 1 << 30)  # nor does a claim of many examples help it
    await served.round_ends(1)
    after = await served.model()
    for name, start in before.items():
        expected = start + np.median(np.stack([d[name] for d in deltas]).astype("f8"), axis=0)
        np.testing.assert_allclose(after[name], expected, rtol=2**-23, atol=1e-8)
    assert await scratch(served) == []
    first = (await served.admin.task("digits")).rounds[0]
    assert (first.phase, first.updates) == ("closed", DEVICES)


@pytest.mark.parametrize("kind", ["median", "trimmed_mean", "krum", "multi_krum"])
async def test_a_robust_model_is_the_same_to_the_last_bit_over_a_restart_in_any_order(
    tmp_path: Path, kind: str
):
    made = plan(goal=DEVICES, minimum=DEVICES, sections=f"[aggregation]\nkind = '{kind}'")
    digests = []
    for name, order in (("one", (0, 1, 2, 3, 4)), ("two", (3, 1, 4, 0, 2))):
        state = tmp_path / name
        async with serving(state) as served:
            await made.create(served.admin)
            devices = await served.devices(DEVICES)
            for at in order[:3]:
                await devices[at].serve(weights(seed=at))
            if name == "one":
                await devices[order[3]].serve(weights(seed=order[3]))
                await devices[order[4]].serve(weights(seed=order[4]))
                await served.round_ends(1)
                digests.append(served.task().model.digest)
            clock = served.clock
        if name == "one":
            continue
        async with serving(state, clock) as served:
            for at in order[3:]:
                devices[at].url = served.url
                await devices[at].serve(weights(seed=at))
            await served.round_ends(1)
            digests.append(served.task().model.digest)
    assert digests[0] == digests[1]


async def test_a_device_that_leaves_is_out_of_a_robust_model(served: Serving):
    await plan(goal=9, minimum=1, sections="[aggregation]\nkind = 'median'").create(served.admin)
    before = await served.model()
    devices = await served.devices(4)
    for device, value in zip(devices, (1.0, 2.0, 3.0, 400.0), strict=True):
        await device.serve(constant(value))
    await served.admin.remove(devices[3].id)
    served.clock.leap(3601.0)
    await served.round_ends(1)
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 2.0, rtol=1e-6)


async def test_a_robust_round_with_fewer_than_it_needs_leaves_the_model(served: Serving):
    """Below the minimum by a loss on the disk."""
    keys = {"goal": 3, "minimum": 3, "deadline": "10m"}
    await plan(sections="[aggregation]\nkind = 'krum'", **keys).create(served.admin)
    before = served.task().model.digest

    def damage() -> None:
        for path in (served.coordinator.services.scratch.parent / "spool").glob("*.log"):
            path.write_bytes(bytes(path.stat().st_size))

    devices = await served.devices(3)
    for device in devices[:2]:
        await device.serve(constant(1.0))
    await asyncio.to_thread(damage)
    await devices[2].serve(constant(1.0))
    await served.round_ends(1)
    first = (await served.admin.task("digits")).rounds[0]
    assert (first.phase, first.reason) == ("abandoned", "too_few")
    assert served.task().model.digest == before
    states = await served.states()
    assert sorted(states.values()) == ["accepted", "refused", "refused"]


# The server's optimiser


async def three_rounds(state: Path, sections: str, restarts: bool) -> list[str]:
    """The digests of three models; with a new process for each, or one for all."""
    clock, found = None, []
    for numbers in ((1,), (2,), (3,)) if restarts else ((1, 2, 3),):
        async with serving(state, clock) as served:
            if clock is None:
                await plan(goal=2, sections=sections).create(served.admin)
            clock = served.clock
            for number in numbers:
                for n, device in enumerate(await served.devices(2)):
                    clock.leap(200.0)  # whoever comes is admitted by now
                    await device.serve(weights(seed=10 * number + n), 10 + n)
                await served.round_ends(number)
                found.append(served.task().model.digest)
    return found


@pytest.mark.parametrize("kind", ["fedadam", "fedavgm", "fedyogi", "fedadagrad"])
async def test_what_the_servers_optimiser_remembers_survives_a_restart(tmp_path: Path, kind: str):
    sections = f"[aggregation]\nkind = '{kind}'"
    straight = await three_rounds(tmp_path / "straight", sections, restarts=False)
    restarted = await three_rounds(tmp_path / "restarted", sections, restarts=True)
    assert restarted == straight
    assert len(set(straight)) == 3


async def test_the_optimisers_state_belongs_to_its_model_and_makes_a_difference(tmp_path: Path):
    async with serving(tmp_path) as served:
        await plan(goal=1, sections="[aggregation]\nkind = 'fedavgm'").create(served.admin)
        store, moves = served.coordinator.services.store, []
        assert served.task().model.state is None
        for number in (1, 2):
            before = await served.model()
            served.clock.leap(200.0)
            await (await served.device()).serve(constant(1.0))
            await served.round_ends(number)
            moves.append(float(((await served.model())["w"] - before["w"]).mean()))
            model = await store.read(tasks.newest_model, "digits")
            assert model.state is not None
            assert await served.coordinator.services.blobs.has(model.state)
    # Momentum: the second step has the first in it.
    assert moves == pytest.approx([1.0, 1.9], rel=1e-4)
