"""What the tests of simulations share: the demo's task on few examples, and FedAvg by hand."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coordinator import taskfile
from coordinator.compiler.folder import read_plan_dir
from coordinator.taskfile import TaskFile
from edge_agent import session
from edge_agent.examples import Examples
from fleet.digits import PLAN, TASK, data
from fleet.simulation import Devices, Result, simulate
from fleet.simulation.learning import chance
from fleet.virtual import Behaviour
from wire import checkpoint
from wire.checkpoint import Weights

QUICK = Behaviour(training=2.0)
"""The demo's rounds take ten seconds at most."""
EACH = 20
MANIFEST = read_plan_dir(PLAN).manifest


@lru_cache(maxsize=1)
def digits() -> tuple[Examples, Examples]:
    """(of all devices, held out)."""
    pool, test = data.load()
    return Examples(pool), Examples(test)


def shares(devices: int) -> list[np.ndarray]:
    """Of twenty digits each, and one more for each device than for the one before it."""
    return [np.arange(EACH + d) + 40 * d for d in range(devices)]


def fleet(devices: int, **settings: Any) -> Devices:
    """So many devices, all quick."""
    return Devices(**({"pool": digits()[0], "shares": shares(devices)} | settings))


def task(goal: int, rounds: int, codec: str = "float32", text: str = "", **keys: Any) -> TaskFile:
    """The demo's, with other rounds; `text` is of further tables."""
    found = taskfile.parse(TASK.read_text() + text)
    assert isinstance(found, TaskFile)
    asked = {"minimum": 1, "over_selection": 1.0, "over_selection_limit": 1.0, **keys}
    round_ = msgspec.structs.replace(found.round, goal=goal, rounds=rounds, **asked)
    upload = msgspec.structs.replace(found.upload, codec=codec)
    return msgspec.structs.replace(found, round=round_, upload=upload)


def played(what: TaskFile, devices: Devices, plan: Path = PLAN, **settings: Any) -> Result:
    """A simulation, in this process unless it is said."""
    if devices.behaviours == Behaviour():
        devices = replace(devices, behaviours=QUICK)
    return simulate(what, plan, devices, **({"workers": 0, "seed": 3} | settings))


def first_weights() -> Weights:
    """The plan's own."""
    return checkpoint.read(read_plan_dir(PLAN).initial, MANIFEST.parameters)


def trained(weights: Weights, device: int, number: int, seed: int = 3) -> session.Trained:
    """What a device learns in a round, by the agent's own code on a session of its own."""
    trainer = session.Trainer(MANIFEST, PLAN, weights, threads=1)
    rng = np.random.default_rng(chance(seed, device, number))
    own = digits()[0].where(shares(device + 1)[device])
    return session.train(trainer, MANIFEST, own, rng, stop=lambda: False)


def mean_change(weights: Weights, devices: int, number: int) -> dict[str, np.ndarray]:
    """Of a round in which all devices take part, weighted by their examples, in float64."""
    found = [trained(weights, device, number) for device in range(devices)]
    examples = np.array([t.examples for t in found], np.float64)
    return {
        name: np.tensordot(examples / examples.sum(), np.stack([t.delta[name] for t in found]), 1)
        for name in weights
    }
