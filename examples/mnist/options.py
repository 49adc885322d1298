"""How an experiment is to be run."""

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from coordinator.contradictions import problems
from coordinator.taskfile import TaskFile, TaskFileError
from examples.mnist.make import prepare, read_task
from examples.mnist.watch import Watch
from examples.plans import Compiled

QUICK_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """`data`: the folder of the IDX files. `work`: where models and plans go. `quick`: a tenth of
    the digits, three rounds. `codec`: in place of the tasks' own, or None. `workers`: processes, or
    None for one a core; 0 is this one."""

    data: Path
    work: Path
    watch: Watch
    seed: int = 1
    quick: bool = False
    codec: str | None = None
    workers: int | None = None

    def prepared(self, name: str) -> Compiled[TaskFile]:
        """The task of this name, as these options want it, with its plan. Raises `CompileError`,
        also where there is no training build, and `TaskFileError` for a codec that is none."""
        return prepare(self._changed(read_task(name)), self.work)

    def _changed(self, task: TaskFile) -> TaskFile:
        if self.quick:
            rounds = replace(task.round, rounds=min(task.round.rounds, QUICK_ROUNDS))
            epochs = min(task.training.epochs, QUICK_ROUNDS)
            task = replace(task, round=rounds, training=replace(task.training, epochs=epochs))
        if self.codec:
            task = replace(task, upload=replace(task.upload, codec=self.codec))
        for problem in problems(task):
            raise TaskFileError(problem)
        return task
