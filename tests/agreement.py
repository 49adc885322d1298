"""One plan, two runtimes: 50 steps on the training build and on a device's stock ONNX Runtime.

    python -m tests.agreement record FOLDER   compile and train, where the training build is
    python -m tests.agreement check FOLDER    train the same plans on the same batches, compare

Both run the agent's own training code. The weights must agree within 1e-4.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from edge_agent.examples import Examples
from edge_agent.session import Trainer
from wire import checkpoint
from wire.checkpoint import Weights
from wire.plan import Manifest, parse_manifest

STEPS, BATCH, TOLERANCE = 50, 10, 1e-4

_TASK = """
name = "{name}"
model = {{ file = "{name}.onnx" }}
loss = {{ kind = "cross_entropy" }}
optimizer = {optimizer}
training = {{ proximal = {proximal} }}
round = {{ goal = 1 }}
"""
_TASKS = {
    "mlp-sgd": ('{ kind = "sgd", learning_rate = 0.1 }', 0.0),
    "mlp-sgd-proximal": ('{ kind = "sgd", learning_rate = 0.1 }', 1.0),
    "mlp-adamw": ('{ kind = "adamw", learning_rate = 0.001 }', 0.0),
    "mlp-adamw-proximal": ('{ kind = "adamw", learning_rate = 0.001 }', 0.1),
    "mlp-nesterov-clip": (
        '{ kind = "sgd", learning_rate = 0.05, momentum = 0.9, nesterov = true, clip_norm = 1.0, '
        "weight_decay = 0.01 }",
        0.0,
    ),
    "mlp-rmsprop": ('{ kind = "rmsprop", learning_rate = 0.0005, momentum = 0.5 }', 0.0),
    "mlp-adagrad": ('{ kind = "adagrad", learning_rate = 0.005 }', 0.0),
    "cnn-momentum": ('{ kind = "sgd", learning_rate = 0.02, momentum = 0.9 }', 0.0),
    "cnn-momentum-proximal": ('{ kind = "sgd", learning_rate = 0.02, momentum = 0.9 }', 1.0),
}
"""By name: the optimiser and the weight of the proximal term."""


def main() -> None:
    """Run as the command line says."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("record", "check"):
        sys.exit(__doc__)
    folder = Path(sys.argv[2])
    if sys.argv[1] == "record":
        record(folder)
    else:
        check(folder)


def record(folder: Path) -> None:
    """Compile each plan here and write the weights after `STEPS` steps."""
    from benchmarks.models import cnn, save, two_nn
    from coordinator import taskfile
    from coordinator.compiler.compile import compile_task
    from coordinator.compiler.folder import write_plan_dir

    folder.mkdir(parents=True, exist_ok=True)
    for name, (optimizer, proximal) in _TASKS.items():
        path = folder / f"{name}.onnx"
        save(cnn() if name.startswith("cnn") else two_nn(), path)
        task = taskfile.parse(_TASK.format(name=name, optimizer=optimizer, proximal=proximal))
        write_plan_dir(compile_task(task, path), folder / name)
        manifest, weights = train(folder / name)
        (folder / name / "after.safetensors").write_bytes(checkpoint.write(weights))
        print(f"{name}: {manifest.weights:,} weights, {STEPS} steps on {_runtime()}")


def check(folder: Path) -> None:
    """Train each recorded plan on this runtime; exit status 1 when the weights differ."""
    worst = 0.0
    for name in _TASKS:
        manifest, weights = train(folder / name)
        recorded = (folder / name / "after.safetensors").read_bytes()
        expected = checkpoint.read(recorded, manifest.parameters)
        difference = max(float(np.abs(weights[n] - expected[n]).max()) for n in expected)
        worst = max(worst, difference)
        print(f"{name}: {_runtime()} differs by {difference:.2e} at most, {TOLERANCE} allowed")
    sys.exit(0 if worst <= TOLERANCE else 1)


def train(folder: Path) -> tuple[Manifest, Weights]:
    """`STEPS` steps of a plan from its own checkpoint, on batches of a fixed seed."""
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    start = checkpoint.read((folder / "checkpoint.safetensors").read_bytes(), manifest.parameters)
    trainer = Trainer(manifest, folder, start, threads=1)
    for batch in _batches(manifest):
        trainer.step(batch)
    return manifest, trainer.weights()


def _batches(manifest: Manifest) -> Iterator[Examples]:
    rng = np.random.default_rng(11)
    for _ in range(STEPS):
        yield Examples(
            {
                i.name: rng.integers(0, i.classes, (BATCH, *i.shape), np.dtype(i.dtype))
                if i.classes
                else rng.random((BATCH, *i.shape), np.float32)
                for i in manifest.inputs
            }
        )


def _runtime() -> str:
    return f"onnxruntime {onnxruntime.__version__}"


if __name__ == "__main__":
    main()
