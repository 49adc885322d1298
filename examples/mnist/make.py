"""The models, `2nn.onnx` and `cnn.onnx`, and plans of the tasks.

`python -m examples.mnist.make` writes the models beside the task files, so that `coordinator
compile` and `coordinator task create` find them; the experiments make their own.
"""

from pathlib import Path
from typing import NamedTuple

import onnx

from coordinator import taskfile
from coordinator.compiler.compile import compile_beside
from coordinator.compiler.folder import write_plan_dir
from coordinator.taskfile import TaskFile
from examples.mnist import FOLDER
from examples.mnist.models import cnn, two_nn
from wire.plan import Manifest

_MODELS = {"2nn.onnx": two_nn, "cnn.onnx": cnn}


class Prepared(NamedTuple):
    """A task, its compiled plan's folder, and what the plan says."""

    task: TaskFile
    plan: Path
    manifest: Manifest


def write_model(name: str, folder: Path) -> None:
    """Write the model of this file's name to `folder`: FedAvg's, with Glorot-uniform weights of a
    fixed seed."""
    onnx.save(_MODELS[name](), folder / name)


def read_task(name: str) -> TaskFile:
    """The task file of this name."""
    task = taskfile.load(FOLDER / f"{name}.toml")
    assert isinstance(task, TaskFile)  # none of them gathers statistics
    return task


def prepare(task: TaskFile, work: Path) -> Prepared:
    """Compile a task; its model and its plan go to `work`. Raises `CompileError` where there is no
    training build."""
    write_model(task.model.file, work)
    compiled = compile_beside(task, work)
    write_plan_dir(compiled, plan := work / task.name)
    return Prepared(task, plan, compiled.manifest)


def main() -> None:
    """Write the models."""
    for name in _MODELS:
        write_model(name, FOLDER)


if __name__ == "__main__":
    main()
