"""A fifth of the devices lies about what it learnt: what that costs each strategy.

Real training of the demo's digits, by the agent's own code, over real sockets. The goals are those
of `benchmarks/robust.py`: FedAvg loses more than 20 points of accuracy, the others fewer than 3.
"""

import asyncio

from coordinator.compiler.folder import read_plan_dir
from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from fleet.clients import Device, FlippedDevice
from fleet.digits import PLAN
from fleet.digits.data import Share, deal_alike, load
from fleet.learner import Learner
from tests.coordinator.digits import digits
from tests.coordinator.serving import Serving
from wire.checkpoint import Weights

DEVICES, LIARS, ROUNDS = 10, 2, 10


async def learnt(
    served: Serving, kind: str, devices: list[Device], examples: Share, name: str
) -> Weights:
    """The model that these devices make of the digits, all of them in every round."""
    table = f"[aggregation]\nkind = '{kind}'"
    round_keys = {"goal": len(devices), "minimum": 5, "over_selection": 1, "rounds": ROUNDS}
    task = await asyncio.to_thread(digits, name, table, **round_keys)
    await task.create(served.admin)
    shares = deal_alike(examples, len(devices))
    learners = [
        Learner(device, PLAN, share, (5, number))
        for number, (device, share) in enumerate(zip(devices, shares, strict=True))
    ]
    for number in range(ROUNDS):
        await asyncio.gather(*(learner.learn() for learner in learners))
        await served.round_ends(number + 1, name)
    await served.until(lambda: served.task(name).model.version == ROUNDS)
    return await served.model(name)


async def test_flipped_updates_ruin_the_mean_and_not_the_robust_strategies(served: Serving):
    examples, held_out = await asyncio.to_thread(load)
    honest = await served.devices(DEVICES)
    liars = [await served.device(FlippedDevice) for _ in range(LIARS)]
    mixed = [*liars, *honest[LIARS:]]
    manifest = (await asyncio.to_thread(read_plan_dir, PLAN)).manifest

    async def points(kind: str, devices: list[Device], name: str) -> float:
        model = await learnt(served, kind, devices, examples, name)
        found = await asyncio.to_thread(
            evaluate, manifest, PLAN, model, Examples(dict(held_out)), 1
        )
        return 100 * found["accuracy"]

    baseline = await points("fedavg", honest, "nobody-lies")
    assert baseline > 90
    lost = {
        kind: baseline - await points(kind, mixed, kind.replace("_", "-"))
        for kind in ("fedavg", "trimmed_mean", "multi_krum")
    }
    assert lost["fedavg"] > 40
    assert lost["trimmed_mean"] < 3
    assert lost["multi_krum"] < 2
