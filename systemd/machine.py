"""The machine that a service is installed on: its files, its accounts, its commands."""

import os
import shutil
import subprocess
from pathlib import Path

from systemd.errors import InstallError

_COMMAND_SECONDS = 330.0
"""Longer than the longest `TimeoutStartSec` of our units: systemd is the one to give up."""


class Machine:
    """Files and accounts under `root`, which is `/` but for tests. Every method blocks."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.written: set[Path] = set()
        """Files written or removed since: what runs from them is stale."""
        self.going: set[Path] = set()
        """In a preview of removing: what would be gone by now."""

    def at(self, path: Path) -> Path:
        """Where an absolute path is found."""
        return self.root / path.relative_to("/")

    def uid(self, user: str) -> int | None:
        """The number of a local user; `None` when there is none of this name."""
        return self._number("etc/passwd", user)

    def gid(self, group: str) -> int | None:
        """The number of a local group; `None` when there is none of this name."""
        return self._number("etc/group", group)

    def has(self, command: str) -> bool:
        """Whether a command can be run."""
        return shutil.which(command) is not None

    def run(self, *command: str) -> None:
        """Run a command. Raises `InstallError` with its complaint when it fails."""
        done = self._run(*command)
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
            raise InstallError(f"{' '.join(command)}: {said}")

    def ask(self, *command: str) -> str:
        """What a command prints, stripped; whatever its exit status."""
        return self._run(*command).stdout.strip()

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 - system commands, found as root's PATH says
                command,
                capture_output=True,
                text=True,
                check=False,
                timeout=_COMMAND_SECONDS,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InstallError(f"{' '.join(command)}: {error}") from None

    def _number(self, table: str, name: str) -> int | None:
        """From passwd(5) or group(5): the number is their third column."""
        for line in (self.root / table).read_text(errors="replace").splitlines():
            columns = line.split(":")
            if columns[0] == name and len(columns) > 2 and columns[2].isdigit():
                return int(columns[2])
        return None


def become_owner(folder: Path) -> None:
    """As root: go on for good with the rights of the user who owns `folder`, so that what is
    written there is the service's to read. Nothing for other users, for root's own folders, and
    where there is none. Raises `OSError`."""
    if os.geteuid() != 0 or not folder.exists():
        return
    owner = folder.stat()
    if owner.st_uid == 0:
        return
    os.setgroups([])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
