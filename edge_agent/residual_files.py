"""What a device has not sent yet, in files: how one residual takes the place of the one before it.

    TASK.residual              what the last update of the task left
    TASK.ASSIGNMENT.pending    what the update of an assignment leaves, once it is written
    TASK.ASSIGNMENT.late       an update that the coordinator would not have any more

Each step is durable before the next: the pending residual is written; the update is written to the
outbox; the pending one is renamed. So an update in the outbox is what makes its residual true. A
kill before it leaves the old residual, and nothing of it sent; a kill after it leaves a pending one
that is renamed later, before the update leaves the outbox at the latest. Whenever it happens, what
was not sent is added to exactly one update. So is what came too late: the residual names the late
updates that are in it, for whoever finds one of them still there. No numpy: the agent's own process
uses this, too.
"""

from pathlib import Path

from wire.files import remove_durably, sync_folder

_KEPT, _PENDING, _LATE = ".residual", ".pending", ".late"
_MOST = 16  # tasks of which something is kept: each costs the disk a model or two


class ResidualFiles:
    """Those of all tasks. Blocking; all raise `OSError`. `outbox` is where updates wait."""

    def __init__(self, folder: Path, outbox: Path) -> None:
        self._folder = folder
        self._outbox = outbox

    def kept(self, task: str) -> Path:
        """Of the last update of a task."""
        return self._folder / f"{task}{_KEPT}"

    def pending(self, task: str, assignment: str) -> Path:
        """Of an update that is about to be written."""
        return self._folder / f"{task}.{assignment}{_PENDING}"

    def settle(self, task: str) -> None:
        """Before a training of a task: put right what a kill left half done."""
        for path in self._folder.glob(f"{task}.*{_PENDING}"):
            if (self._outbox / f"{_assignment(path)}.update").exists():
                path.replace(self.kept(task))
            else:
                path.unlink(missing_ok=True)
            sync_folder(self._folder)

    def written(self, assignment: str) -> None:
        """The update of an assignment was written: what it leaves is true from now on."""
        for path in self._folder.glob(f"*.{assignment}{_PENDING}"):
            path.replace(self.kept(path.name.partition(".")[0]))
            sync_folder(self._folder)

    def came_late(self, task: str, assignment: str) -> None:
        """The update of an assignment goes back, if anything is kept of its task."""
        if self.kept(task).exists():
            late = self._folder / f"{task}.{assignment}{_LATE}"
            (self._outbox / f"{assignment}.update").replace(late)
            sync_folder(self._folder)

    def late(self, task: str) -> dict[str, Path]:
        """The updates of a task that went back, by assignment."""
        return {_assignment(path): path for path in sorted(self._folder.glob(f"{task}.*{_LATE}"))}

    def forget(self, task: str) -> None:
        """What was kept of a task is of no use."""
        pending = self._folder.glob(f"{task}.*{_PENDING}")  # of a child that was killed
        for path in (self.kept(task), *self.late(task).values(), *pending):
            self.remove(path)

    def remove(self, path: Path) -> None:
        """One of these files, durably."""
        remove_durably(path)

    def forget_oldest(self) -> None:
        """Tasks come and go: of those that were trained for long ago, nothing is kept."""
        found = sorted(self._folder.glob(f"*{_KEPT}"), key=lambda path: path.stat().st_mtime)
        for path in found[:-_MOST]:
            self.forget(path.name.removesuffix(_KEPT))


def _assignment(pending: Path) -> str:
    """Neither the name of a task nor that of an assignment has a dot."""
    return pending.name.split(".")[1]
