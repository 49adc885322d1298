"""The examples' tasks, and their plans, compiled on the spot."""

from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from coordinator import taskfile
from coordinator.compiler.compile import compile_beside
from coordinator.compiler.folder import write_plan_dir
from coordinator.taskfile import StatisticsFile, TaskFile
from wire.plan import Manifest

T = TypeVar("T", TaskFile, StatisticsFile)


class Compiled(NamedTuple, Generic[T]):
    """A task, the folder of its plan, and what the plan says."""

    task: T
    plan: Path
    manifest: Manifest


def training_task(file: Path) -> TaskFile:
    """The task of a file, which trains a model. Raises `TaskFileError`."""
    task = taskfile.load(file)
    assert isinstance(task, TaskFile)
    return task


def compiled(task: T, beside: Path, folder: Path) -> Compiled[T]:
    """A task with its plan, which is written to a folder of the task's name in `folder`; the files
    that the task names are in `beside`. Raises `CompileError`, as where there is no training build,
    and `OSError`."""
    plan = compile_beside(task, beside)
    write_plan_dir(plan, folder / task.name)
    return Compiled(task, folder / task.name, plan.manifest)
