"""The folder `models/TASK` of local programs: the model they have, and the one before it.

current.onnx, previous.onnx   complete models, their metadata inside
current.json, previous.json   the same metadata, for people and scripts
refused.json                  models that are not to be adopted

Models are replaced by renames alone, so that a reader finds a whole model at any moment, and a
process killed between two renames leaves a state that `mend` ends in order. Blocking, all of it.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edge_agent.errors import StateError
from edge_agent.keeping import Refused, Why
from edge_agent.models import CURRENT, NOTE, Info, NoModel, read_info
from edge_agent.onnx_file import Buffer, note
from wire.files import sync_folder

FOLDER_MODE, FILE_MODE = 0o750, 0o640
"""Local programs in the agent's group read the models; nobody else, and nobody writes."""

_REFUSED_KEPT = 8
_LOCK_SECONDS = 10.0


class Shelf:
    """One task's folder. It need not be there yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task = folder.name
        self._current = folder / CURRENT
        self._previous = folder / "previous.onnx"
        self._new = folder / ".new.onnx"
        self._replaced = folder / ".replaced.onnx"
        self._refused = folder / "refused.json"

    @property
    def path(self) -> Path:
        """The file of the model that local programs have."""
        return self._current

    def current(self) -> Info | None:
        """What local programs have."""
        return _info(self._current)

    def previous(self) -> Info | None:
        """What they had before."""
        return _info(self._previous)

    def refused(self) -> tuple[Refused, ...]:
        """What is not to be adopted, oldest first."""
        try:
            return msgspec.json.decode(self._refused.read_bytes(), type=tuple[Refused, ...])
        except (OSError, msgspec.DecodeError):
            return ()

    def refuse(self, refused: Refused) -> None:
        """Remember not to adopt a model. Raises `OSError`, `StateError`."""
        self._make()
        with self._locked():
            self._save_refused([*self.refused(), refused])

    def write(self, parts: Iterable[Buffer]) -> Path:
        """Put a complete model aside, to be looked at before `adopt`. Raises `OSError`."""
        self._make()
        self._write(self._new, parts)
        return self._new

    def drop(self) -> None:
        """Forget what `write` put aside; what cannot be removed now is at the next `write`."""
        with suppress(OSError):
            self._new.unlink(missing_ok=True)

    def adopt(self, info: Info) -> None:
        """Give local programs the model that `write` put aside; what they have becomes the
        previous one. Raises `OSError`, `StateError`."""
        with self._new.open("ab") as file:
            file.write(note(NOTE, msgspec.json.encode(info).decode()))
            file.flush()
            os.fsync(file.fileno())
        with self._locked():
            self._settle()
            self._swap(self._new)
            self._settle()

    def rollback(self, now: str) -> tuple[Info, Info | None]:
        """Swap the current and the previous model; the one that was current is not adopted again.

        Returns (what local programs have now, what they had). Raises `StateError` when there is no
        previous model, `OSError`.
        """
        if not self.folder.is_dir():
            raise StateError(f"{self.task}: local programs have no model of it")
        with self._locked():
            self._settle()
            back, left = self.previous(), self.current()
            if back is None:
                raise StateError(f"{self.task}: there is no model to go back to")
            refused = [r for r in self.refused() if r.model != back.model]
            if left:
                refused.append(_rolled_back(left, back, now))
            self._save_refused(refused)
            self._swap(self._previous)
            self._settle()
            return back, left

    def mend(self) -> None:
        """Put in order what a killed process left. Only where no other process may be adopting.
        Raises `OSError`, `StateError`."""
        with self._locked():
            self._settle()
            for unfinished in self.folder.glob(".*"):
                unfinished.unlink()

    def _swap(self, new: Path) -> None:
        """`new` becomes current, and what was current previous. A second name keeps the latter,
        so that there is a current one at every moment."""
        with suppress(FileNotFoundError):
            os.link(self._current, self._replaced)
        new.replace(self._current)

    def _settle(self) -> None:
        """End a swap, whoever began it; have the JSON files say what the models say."""
        if self._replaced.exists():
            if self._current.exists() and self._replaced.samefile(self._current):
                self._replaced.unlink()
            else:
                self._replaced.replace(self._previous)
        sync_folder(self.folder)
        for model in (self._current, self._previous):
            self._describe(model)

    def _describe(self, model: Path) -> None:
        beside, info = model.with_suffix(".json"), _info(model)
        if info is None:
            beside.unlink(missing_ok=True)
            return
        text = msgspec.json.format(msgspec.json.encode(info)) + b"\n"
        if not beside.exists() or beside.read_bytes() != text:
            self._replace(beside, text)

    def _save_refused(self, refused: list[Refused]) -> None:
        self._replace(self._refused, msgspec.json.encode(refused[-_REFUSED_KEPT:]))

    def _replace(self, path: Path, data: bytes) -> None:
        aside = path.with_name(f".{path.name}.new")
        self._write(aside, [data])
        aside.replace(path)
        sync_folder(self.folder)

    def _write(self, path: Path, parts: Iterable[Buffer]) -> None:
        """A new file, durable, readable by the group; the folder's owner's, also when it is root
        who writes it."""
        path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, FILE_MODE)
                if os.geteuid() == 0:
                    owner = self.folder.stat()
                    os.fchown(descriptor, owner.st_uid, owner.st_gid)
                file.writelines(parts)
                file.flush()
                os.fsync(descriptor)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def _make(self) -> None:
        for folder in (self.folder.parent, self.folder):
            make_folder(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time: the agent's child, or the owner's command."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock(descriptor, self.folder)
            yield
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """A folder of models, if it is not there: `FOLDER_MODE` whatever the umask says."""
    with suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(FOLDER_MODE)


def shelves(models: Path) -> list[Shelf]:
    """The shelf of each task in a folder of models, by name; none if there is no such folder."""
    try:
        return [Shelf(folder) for folder in sorted(models.iterdir()) if folder.is_dir()]
    except OSError:
        return []


def mend(models: Path) -> None:
    """Mend every shelf, at the start of an agent. Raises `StateError`."""
    for shelf in shelves(models):
        try:
            shelf.mend()
        except OSError as error:
            raise StateError(f"{shelf.folder} cannot be used: {error}") from None


def tell(models: Path) -> str:
    """All models of local programs, for people."""
    lines = []
    for shelf in shelves(models):
        lines.append(shelf.task)
        for name, info in (("current", shelf.current()), ("previous", shelf.previous())):
            lines.append(f"  {name:9}{_line(info)}")
        lines += [f"  {'refused':9}version {r.version}: {r.detail}" for r in shelf.refused()]
    return "\n".join(lines) or f"no models in {models}"


def _line(info: Info | None) -> str:
    if info is None:
        return "none"
    measured = "not measured"
    if info.value is not None:
        measured = f"{info.metric} {info.value:.6g} over {info.held_out} examples"
    if info.published is not None:
        measured = f"personal, {measured} (published: {info.published:.6g})"
    return f"version {info.version}, {measured}, since {info.adopted} ({info.why})"


def _info(path: Path) -> Info | None:
    try:
        return read_info(path)
    except NoModel:
        return None


def _rolled_back(left: Info, back: Info, now: str) -> Refused:
    return Refused(
        version=left.version,
        model=left.model,
        why=Why.ROLLED_BACK,
        detail=f"the owner went back to version {back.version}",
        when=now,
    )


def _lock(descriptor: int, folder: Path) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise StateError(f"{folder} is in use by another process") from None
            time.sleep(0.05)
