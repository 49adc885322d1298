"""What a workshop needs to know, as plain data, and the folder of it all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fleet.simulation import data
from fleet.simulation.data import Data
from fleet.simulation.workshop import Workshop
from wire.plan import Manifest

_MEMORY = Path("/dev/shm")  # noqa: S108 - where there is one, a file costs no disk


@dataclass(frozen=True)
class Setting:
    """`data` in memory; `None`: in files of `folder`. `keeps`: devices keep something from one
    round to the next. `quick` is a folder for files of a moment."""

    manifest: Manifest
    plan: Path
    folder: Path
    quick: Path
    keeps: bool
    data: Data | None = None

    def workshop(self) -> Workshop:
        """Open it, in this process. Raises `OSError`."""
        found = self.data or data.read(self.folder, self.manifest.inputs)
        kept = self.folder / "devices" if self.keeps else None
        scratch = Path(tempfile.mkdtemp(dir=self.quick))
        return Workshop(self.manifest, self.plan, found, kept, scratch)


@contextmanager
def folders() -> Iterator[tuple[Path, Path]]:
    """(on the disk, in memory where there is such a folder), both gone at the end."""
    memory = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="lamplighter-", ignore_cleanup_errors=True) as disk,
        tempfile.TemporaryDirectory(
            prefix="lamplighter-", dir=memory, ignore_cleanup_errors=True
        ) as quick,
    ):
        yield Path(disk), Path(quick)
