"""What an installation consists of: steps that know whether they are done, and undo themselves.

Steps are in the order of installing. Removing goes backwards, and leaves what the owner wrote or
collected unless told otherwise.
"""

import os
import shutil
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from systemd.errors import InstallError
from systemd.machine import Machine


class Keep(Enum):
    """What removing leaves."""

    STATE = "state"
    """Configuration and all folders, and the user who owns them: for a reinstallation."""
    OWN = "own"
    """What the owner wrote: configuration that was changed, folders of examples that hold some."""
    NOTHING = "nothing"


class Step(ABC):
    """One thing that an installed service needs. `what` names it for people."""

    @property
    @abstractmethod
    def what(self) -> str: ...

    @abstractmethod
    def done(self, machine: Machine) -> bool:
        """Whether it is so already. Changes nothing."""

    @abstractmethod
    def do(self, machine: Machine) -> None:
        """Raises `InstallError`, `OSError`."""

    @abstractmethod
    def gone(self, machine: Machine) -> bool:
        """Whether nothing of it is there. Changes nothing."""

    @abstractmethod
    def undo(self, machine: Machine) -> None:
        """Raises `InstallError`, `OSError`."""

    def kept(self, machine: Machine, keep: Keep) -> str:
        """Why removing leaves it; empty when it does not."""
        return ""

    def remark(self, machine: Machine) -> str:
        """What else there is to say where it is done already."""
        return ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """What goes from the disk with it."""
        return ()


@dataclass(frozen=True)
class File(Step):
    """A file of root's. One of the owner's (`owners`) is never overwritten."""

    path: Path
    text: str
    name: str
    owners: bool = False
    mode: int = 0o644

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def what(self) -> str:
        return f"{self.name} {self.path}"

    def done(self, machine: Machine) -> bool:
        found = _read(machine.at(self.path))
        return found is not None if self.owners else found == self.text

    def remark(self, machine: Machine) -> str:
        other = self.owners and _read(machine.at(self.path)) != self.text
        return " (it says otherwise than a new one would: left as it is)" if other else ""

    def do(self, machine: Machine) -> None:
        path = machine.at(self.path)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.new")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(self.text)
            os.fchmod(file.fileno(), self.mode)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        machine.written.add(self.path)

    def gone(self, machine: Machine) -> bool:
        return not os.path.lexists(machine.at(self.path))

    def undo(self, machine: Machine) -> None:
        machine.at(self.path).unlink()
        machine.written.add(self.path)

    def kept(self, machine: Machine, keep: Keep) -> str:
        if not self.owners or keep is Keep.NOTHING or self.gone(machine):
            return ""
        if keep is Keep.STATE:
            return "as asked"
        return "" if _read(machine.at(self.path)) == self.text else "it was changed"


@dataclass(frozen=True)
class Folder(Step):
    """A folder with its owner and mode.

    `owners`: it holds what the owner collected, and goes only when it is empty, or when asked for.
    """

    path: Path
    mode: int
    user: str
    name: str
    owners: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def what(self) -> str:
        return f"{self.name} {self.path}"

    def done(self, machine: Machine) -> bool:
        path = machine.at(self.path)
        if path.is_symlink():
            raise InstallError(f"{path} is a link: root does not follow it, make it a folder")
        if not path.is_dir():
            return False
        found = path.stat()
        owner = (machine.uid(self.user), machine.gid(self.user))
        return (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (self.mode, *owner)

    def do(self, machine: Machine) -> None:
        path = machine.at(self.path)
        uid, gid = machine.uid(self.user), machine.gid(self.user)
        if uid is None or gid is None:
            raise InstallError(f"there is no user and group {self.user} to own {path}")
        path.mkdir(mode=0o700, exist_ok=True)
        if (path.stat().st_uid, path.stat().st_gid) != (uid, gid):
            _hand_over(path, uid, gid)
        path.chmod(self.mode)

    def gone(self, machine: Machine) -> bool:
        return not os.path.lexists(machine.at(self.path))

    def undo(self, machine: Machine) -> None:
        shutil.rmtree(machine.at(self.path))

    def kept(self, machine: Machine, keep: Keep) -> str:
        path = machine.at(self.path)
        if not path.is_dir():
            return ""
        if keep is Keep.STATE:
            return "as asked"
        if self.owners and keep is Keep.OWN and any(path.iterdir()):
            return "it is not empty, and what is in it is yours"
        return ""


@dataclass(frozen=True)
class Shared(Step):
    """A folder of root's that other services may use, too: removed only when it is empty."""

    path: Path

    @property
    def what(self) -> str:
        return f"folder {self.path}"

    def done(self, machine: Machine) -> bool:
        return machine.at(self.path).is_dir()

    def do(self, machine: Machine) -> None:
        machine.at(self.path).mkdir(mode=0o755, parents=True, exist_ok=True)

    def gone(self, machine: Machine) -> bool:
        return not machine.at(self.path).exists()

    def undo(self, machine: Machine) -> None:
        machine.at(self.path).rmdir()

    def kept(self, machine: Machine, keep: Keep) -> str:
        folder = machine.at(self.path)
        others = {self.path / p.name for p in folder.iterdir()} if folder.is_dir() else set()
        return "other files are in it" if others - machine.going else ""


@dataclass(frozen=True)
class User(Step):
    """A system user with a group of its name, as the sysusers.d file at `declared` says. It stays
    as long as one of its `folders` does: their files must not fall to the next user made."""

    name: str
    home: Path
    declared: Path
    folders: tuple[Path, ...]

    @property
    def what(self) -> str:
        return f"user and group {self.name}"

    def done(self, machine: Machine) -> bool:
        return machine.uid(self.name) is not None and machine.gid(self.name) is not None

    def do(self, machine: Machine) -> None:
        if machine.has("systemd-sysusers"):
            machine.run("systemd-sysusers", str(self.declared))
            return
        machine.run(
            *("useradd", "--system", "--user-group", "--no-create-home"),
            *("--home-dir", str(self.home), "--shell", "/usr/sbin/nologin", self.name),
        )

    def gone(self, machine: Machine) -> bool:
        return machine.uid(self.name) is None and machine.gid(self.name) is None

    def undo(self, machine: Machine) -> None:
        if machine.uid(self.name) is not None:
            machine.run("userdel", self.name)
        if machine.gid(self.name) is not None:  # userdel leaves a group that has other members
            machine.run("groupdel", self.name)

    def kept(self, machine: Machine, keep: Keep) -> str:
        left = [f for f in self.folders if f not in machine.going]
        owned = [str(folder) for folder in left if machine.at(folder).exists()]
        return f"it owns {', '.join(owned)}" if owned and not self.gone(machine) else ""


@dataclass(frozen=True)
class Unit(File):
    """The file of a `unit`, or of a drop-in to it, read by systemd."""

    unit: str = ""

    def done(self, machine: Machine) -> bool:
        return (
            super().done(machine)
            and machine.ask(
                "systemctl", "show", "--property=NeedDaemonReload", "--value", self.unit
            )
            == "no"
        )

    def do(self, machine: Machine) -> None:
        super().do(machine)
        machine.run("systemctl", "daemon-reload")

    def undo(self, machine: Machine) -> None:
        super().undo(machine)
        machine.run("systemctl", "daemon-reload")


@dataclass(frozen=True)
class Enabled(Step):
    """A unit that starts with the machine."""

    unit: str

    @property
    def what(self) -> str:
        return f"{self.unit} starts with the machine"

    def done(self, machine: Machine) -> bool:
        return machine.ask("systemctl", "is-enabled", self.unit) == "enabled"

    def do(self, machine: Machine) -> None:
        machine.run("systemctl", "enable", self.unit)

    def gone(self, machine: Machine) -> bool:
        return not self.done(machine)

    def undo(self, machine: Machine) -> None:
        machine.run("systemctl", "disable", self.unit)


@dataclass(frozen=True)
class Running(Step):
    """A unit that runs, from the files as they are now."""

    unit: str
    files: tuple[Path, ...]

    @property
    def what(self) -> str:
        return f"{self.unit} runs"

    def done(self, machine: Machine) -> bool:
        return self._state(machine) == "active" and machine.written.isdisjoint(self.files)

    def do(self, machine: Machine) -> None:
        try:
            machine.run("systemctl", "restart", self.unit)
        except InstallError as error:
            said = str(error).splitlines()[0]
            raise InstallError(f"{said} See: journalctl -u {self.unit} -n 20") from None

    def gone(self, machine: Machine) -> bool:
        return self._state(machine) in ("inactive", "")

    def undo(self, machine: Machine) -> None:
        machine.run("systemctl", "stop", self.unit)
        machine.ask("systemctl", "reset-failed", self.unit)

    def _state(self, machine: Machine) -> str:
        return machine.ask("systemctl", "is-active", self.unit)


def _read(path: Path) -> str | None:
    """A file's text; `None` when there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _hand_over(folder: Path, uid: int, gid: int) -> None:
    """Give a folder and all in it to a user. Links are given, not followed."""
    for _, folders, files, descriptor in os.fwalk(folder):
        for name in (*folders, *files):
            os.chown(name, uid, gid, dir_fd=descriptor, follow_symlinks=False)
    os.chown(folder, uid, gid, follow_symlinks=False)
