"""The models, `2nn.onnx` and `cnn.onnx`, and plans of the tasks.

`python -m examples.mnist.make` writes the models beside the task files, so that `coordinator
compile` and `coordinator task create` find them; the experiments make their own.
"""

from pathlib import Path

import onnx

from coordinator.taskfile import TaskFile
from examples.mnist import FOLDER
from examples.mnist.models import cnn, two_nn
from examples.plans import Compiled, compiled, training_task

_MODELS = {"2nn.onnx": two_nn, "cnn.onnx": cnn}


def write_model(name: str, folder: Path) -> None:
    """Write the model of this file's name to `folder`: FedAvg's, with Glorot-uniform weights of a
    fixed seed."""
    onnx.save(_MODELS[name](), folder / name)


def read_task(name: str) -> TaskFile:
    """The task file of this name."""
    return training_task(FOLDER / f"{name}.toml")


def prepare(task: TaskFile, work: Path) -> Compiled[TaskFile]:
    """Compile a task; its model and its plan go to `work`. Raises `CompileError` where there is no
    training build."""
    write_model(task.model.file, work)
    return compiled(task, work, work)


def main() -> None:
    """Write the models."""
    for name in _MODELS:
        write_model(name, FOLDER)


if __name__ == "__main__":
    main()
