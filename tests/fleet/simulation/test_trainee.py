"""A session that serves many devices is to each of them as a new one."""

from pathlib import Path

import numpy as np
import onnx

from coordinator import taskfile
from coordinator.compiler.compile import compile_beside
from coordinator.compiler.folder import write_plan_dir
from edge_agent import session
from edge_agent.examples import Examples
from edge_agent.session import Trained, Trainer
from fleet.simulation.trainee import Trainee
from tests.coordinator.compiler.building import model, node, weights
from wire import checkpoint
from wire.plan import Manifest

TASK = """
name = "known"
[model]
file = "model.onnx"
[loss]
kind = "mse"
[optimizer]
kind = "sgd"
learning_rate = 0.05
momentum = 0.9
schedule = { kind = "linear", over = "steps" }
[training]
batch = 5
epochs = 2
proximal = 0.1
[round]
goal = 1
"""


def trained(trainer: Trainer, manifest: Manifest, examples: Examples, seed: int) -> Trained:
    rng = np.random.default_rng(seed)
    return session.train(trainer, manifest, examples, rng, stop=lambda: False, version=1)


def test_whoever_had_it_before(tmp_path: Path) -> None:
    """Weights, momentum, the proximal term's base, random numbers and the rate are begun anew."""
    ratio = {"ratio": np.array(0.5, np.float32)}
    nodes = [node("MatMul", "x w", "h"), node("Dropout", "h ratio", "d"), node("Add", "d b", "out")]
    onnx.save(model(nodes, weights(w=(4, 2), b=(2,)) | ratio), tmp_path / "model.onnx")
    plan = compile_beside(taskfile.parse(TASK), tmp_path)
    write_plan_dir(plan, tmp_path / "plan")
    manifest = plan.manifest
    assert manifest.drawn
    assert manifest.state
    assert manifest.bases
    rng = np.random.default_rng(1)

    def examples(count: int) -> Examples:
        values = {"x": rng.normal(size=(count, 4)), "target": rng.normal(size=(count, 2))}
        return Examples({name: array.astype(np.float32) for name, array in values.items()})

    first = checkpoint.read(plan.initial, manifest.parameters)
    second = {name: values + 1 for name, values in first.items()}
    trainee = Trainee(manifest, tmp_path / "plan")
    for seed, (own, start) in enumerate(
        [(examples(13), first), (examples(15), second), (examples(8), first)]
    ):
        trainee.begin(start, {}, seed)
        found = trained(trainee, manifest, own, seed)
        new = Trainer(manifest, tmp_path / "plan", start, threads=1, seed=seed)
        expected = trained(new, manifest, own, seed)
        assert (found.loss, found.steps) == (expected.loss, expected.steps)
        for name, values in expected.delta.items():
            np.testing.assert_array_equal(found.delta[name], values)
