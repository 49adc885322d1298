"""One plan, two runtimes: the training build's and a device's stock ONNX Runtime.

    python -m tests.agreement record FOLDER   compile and train, where the training build is
    python -m tests.agreement check FOLDER    train the same plans on the same batches, compare

Each optimiser takes 50 steps on one of the benchmarks' models, and each model of the compiler's
tests (`zoo.py`) a few. Both sides run the agent's own training code. Losses, weights, metrics and
what `model.onnx` gives must agree within 1e-4, absolute below 1 and relative above.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile

import numpy as np
import onnxruntime

from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from edge_agent.session import Trainer
from tests.coordinator.compiler import zoo
from wire import checkpoint
from wire.plan import Manifest, parse_manifest

STEPS, FEW, BATCH, TOLERANCE = 50, 5, 10, 1e-4
# Plain, as an adaptive one makes whole steps of a gradient that is nothing but rounding.
_SGD = '{ kind = "sgd", learning_rate = 0.02 }'

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


@dataclass(frozen=True)
class Job:
    """A plan to train: its task file, and how."""

    name: str
    toml: str
    steps: int
    case: zoo.Case | zoo.Statistic | None = None


def jobs() -> list[Job]:
    """All of them, in order."""
    found = [
        Job(name, _TASK.format(name=name, optimizer=optimizer, proximal=proximal), STEPS)
        for name, (optimizer, proximal) in _TASKS.items()
    ]
    for name, case in zoo.CASES.items():
        found.append(Job(name, replace(case, optimizer=_SGD).toml(name), FEW, case))
    for name, statistic in zoo.STATISTICS.items():
        found.append(Job(name, statistic.toml(name), FEW, statistic))
    return found


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
    """Compile each plan here, train it, and write what comes of it."""
    from coordinator import taskfile
    from coordinator.compiler.compile import compile_beside
    from coordinator.compiler.folder import write_plan_dir

    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs():
        _place_model(job, folder / f"{job.name}.onnx")
        write_plan_dir(compile_beside(taskfile.parse(job.toml), folder), folder / job.name)
        np.savez(folder / job.name / "outcome.npz", **outcome(job, folder / job.name))
    print(f"{len(jobs())} plans trained on {_runtime()}")


def check(folder: Path) -> None:
    """Train each recorded plan on this runtime; exit status 1 when anything differs."""
    worst: dict[str, float] = {}
    for job in jobs():
        found = outcome(job, folder / job.name)
        with np.load(folder / job.name / "outcome.npz") as expected:
            assert set(expected) == set(found), job.name
            worst[job.name] = max(_difference(found[n], expected[n]) for n in found)
        if not worst[job.name] <= TOLERANCE:
            print(f"{job.name}: differs by {worst[job.name]:.2e}, {TOLERANCE} allowed")
    most = max(worst, key=lambda name: worst[name])
    print(f"{len(worst)} plans on {_runtime()}: {most} differs most, by {worst[most]:.2e}")
    sys.exit(0 if all(value <= TOLERANCE for value in worst.values()) else 1)


def outcome(job: Job, folder: Path) -> dict[str, np.ndarray]:
    """Losses and weights of the steps from the plan's own checkpoint, on batches of fixed seeds;
    metrics of the new weights, and what `model.onnx` gives with the first ones."""
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    start = checkpoint.read((folder / "checkpoint.safetensors").read_bytes(), manifest.parameters)
    trainer = Trainer(manifest, folder, start, threads=1)
    batches = list(_batches(job, manifest))
    found = {"losses": np.array([trainer.step(batch) for batch in batches])}
    weights = trainer.weights()
    found |= {f"weight {name}": value for name, value in weights.items()}
    metrics = evaluate(manifest, folder, weights, batches[0], threads=1)
    found |= {f"metric {name}": np.array(value) for name, value in metrics.items()}
    return found | _outputs(folder / "model.onnx", batches[0])


def _place_model(job: Job, path: Path) -> None:
    if isinstance(job.case, zoo.Case):
        copyfile(zoo.EXPORTED / f"{job.case.file}.onnx", path)
    elif job.case is None:
        from benchmarks.models import save
        from examples.mnist.models import cnn, two_nn

        save(cnn() if job.name.startswith("cnn") else two_nn(), path)


def _batches(job: Job, manifest: Manifest) -> Iterator[Examples]:
    rng = np.random.default_rng(11)
    for step in range(job.steps):
        if job.case is not None:
            yield Examples(zoo.examples(manifest.inputs, job.case.below, BATCH, step))
            continue
        yield Examples(
            {
                i.name: rng.integers(0, i.classes, (BATCH, *i.shape), np.dtype(i.dtype))
                if i.classes
                else rng.random((BATCH, *i.shape), np.float32)
                for i in manifest.inputs
            }
        )


def _outputs(model: Path, batch: Examples) -> dict[str, np.ndarray]:
    made = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [o.name for o in made.get_outputs()]
    values = made.run(names, {i.name: batch.arrays[i.name] for i in made.get_inputs()})
    return {f"output {name}": value for name, value in zip(names, values, strict=True)}


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest, as a part of the largest expected number where that is above 1."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    largest = float(np.abs(expected).max(initial=1.0))
    return float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / largest


def _runtime() -> str:
    return f"onnxruntime {onnxruntime.__version__}"


if __name__ == "__main__":
    main()
