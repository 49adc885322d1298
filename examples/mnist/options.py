"""How an experiment is to be run."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from coordinator.contradictions import problems
from coordinator.taskfile import TaskFile, TaskFileError
from examples.mnist.make import Prepared, prepare
from examples.mnist.watch import Watch

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

    def prepared(self, name: str) -> Prepared:
        """The task of this name, as these options want it, with its plan. Raises `CompileError`,
        also where there is no training build, and `TaskFileError` for a codec that is none."""
        found = prepare(name, self.work)
        return found._replace(task=self._changed(found.task))

    def _changed(self, task: TaskFile) -> TaskFile:
        rounds = msgspec.structs.replace(task.round, rounds=QUICK_ROUNDS)
        upload = msgspec.structs.replace(task.upload, codec=self.codec or task.upload.codec)
        changed = msgspec.structs.replace(
            task, round=rounds if self.quick else task.round, upload=upload
        )
        for problem in problems(changed):
            raise TaskFileError(problem)
        return changed
