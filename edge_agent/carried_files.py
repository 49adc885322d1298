"""What a device carries from one round to its next, in files: how one takes the other's place.

    TASK.carried                  of the last round whose update was accepted
    TASK.ASSIGNMENT.carrying      of a training whose update is not accepted yet

A plan that carries something builds on what the coordinator has counted. So what a training leaves
is written before its update, and becomes true when that is accepted, not before: it is renamed
while the update still waits in the outbox. A kill leaves the old one, or the new one and an update
that is sent, and accepted, once more. Of an update that is refused, was never written or is lost,
nothing is carried. No numpy: the agent's own process uses this, too.
"""

from pathlib import Path

from wire.files import remove_durably, sync_folder

_CARRIED, _CARRYING = ".carried", ".carrying"
_MOST = 16  # tasks of which something is carried: each costs the disk a model


class CarriedFiles:
    """Those of all tasks, in `folder`. Blocking; all raise `OSError`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def carried(self, task: str) -> Path:
        """What the next training of a task begins with."""
        return self._folder / f"{task}{_CARRIED}"

    def carrying(self, task: str, assignment: str) -> Path:
        """What the training of an assignment leaves."""
        return self._folder / f"{task}.{assignment}{_CARRYING}"

    def settle(self, assignment: str, accepted: bool) -> None:
        """The update of an assignment has been accepted, or never will be. To be called before it
        leaves the outbox."""
        for path in self._folder.glob(f"*.{assignment}{_CARRYING}"):
            if accepted:
                path.replace(self.carried(path.name.partition(".")[0]))
            else:
                path.unlink(missing_ok=True)
            sync_folder(self._folder)

    def forget(self, task: str) -> None:
        """What is carried of a task is of no use."""
        remove_durably(self.carried(task))

    def make_room(self, task: str, outbox: Path) -> None:
        """Before a training of a task is kept: what trainings left whose update is not in the
        `outbox` goes, and so does what was carried of tasks that were trained for long ago."""
        for path in self._folder.glob(f"*{_CARRYING}"):
            if not (outbox / f"{path.name.split('.')[1]}.update").exists():
                remove_durably(path)
        others = {path for path in self._folder.glob(f"*{_CARRIED}") if path != self.carried(task)}
        for path in sorted(others, key=lambda path: path.stat().st_mtime)[: -(_MOST - 1)]:
            remove_durably(path)
