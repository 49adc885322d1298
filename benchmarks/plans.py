"""The benchmarks' plans: cross-entropy, compiled once a run."""

from pathlib import Path

from benchmarks import models
from coordinator import taskfile
from coordinator.compiler.compile import compile_task
from coordinator.compiler.folder import write_plan_dir
from examples.mnist.models import cnn, two_nn

MODELS = {
    "2nn": two_nn,
    "cnn": cnn,
    "keywords": models.keywords,
    "mobile": models.mobile,
    "lstm": models.lstm,
    "transformer": models.transformer,
}
LEARNING_RATE = 0.05
OPTIMIZERS = {
    "sgd": 'kind = "sgd", learning_rate = {rate}',
    "adamw": 'kind = "adamw", learning_rate = 0.001',
}

_TASK = """\
name = "{name}"
model = {{ file = "{model}.onnx" }}
loss = {{ kind = "cross_entropy" }}
optimizer = {{ {optimizer} }}
upload = {{ codec = "{codec}" }}
training = {{ epochs = {epochs}, metrics = ["loss", "accuracy"] }}
round = {{ goal = {goal}, over_selection = 1, rounds = {rounds}, deadline = "{deadline}" }}
schedule = {{ round_deadline = "2m", check_in = "50ms" }}
"""


def write_model(name: str, folder: Path) -> Path:
    """The model's file in `folder`, written if it is not there."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        models.save(MODELS[name](), path)
    return path


def write_task(
    folder: Path,
    model: str,
    *,
    codec: str = "float32",
    goal: int = 1,
    rounds: int = 0,
    epochs: int = 1,
    rate: float = LEARNING_RATE,
    deadline: str = "2m",
    optimizer: str = "sgd",
) -> Path:
    """A task file beside its model; check-ins are paced as fast as a schedule allows."""
    write_model(model, folder)
    path = folder / f"{model}.toml"
    path.write_text(
        _TASK.format(
            name=model,
            model=model,
            optimizer=OPTIMIZERS[optimizer].format(rate=rate),
            codec=codec,
            goal=goal,
            rounds=rounds,
            epochs=epochs,
            deadline=deadline,
        )
    )
    return path


def compile_plan(
    folder: Path,
    model: str,
    rate: float = LEARNING_RATE,
    optimizer: str = "sgd",
) -> Path:
    """The folder of a model's plan, one for each rate and optimiser. Raises `CompileError` where
    there is no training build."""
    name = f"plan-{model}" if optimizer == "sgd" else f"plan-{model}-{optimizer}"
    plan = folder / (name if rate == LEARNING_RATE else f"{name}-{rate:g}")
    if not (plan / "manifest.json").exists():
        task = taskfile.load(write_task(folder, model, rate=rate, optimizer=optimizer))
        write_plan_dir(compile_task(task, write_model(model, folder)), plan)
    return plan
