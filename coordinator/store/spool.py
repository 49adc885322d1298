"""The spool: updates on their way in, and those accepted until their round has closed.

One file an assignment. Bytes are written at stated offsets, so a connection that was cut, or two
that race, can only write the same bytes to the same place.
"""

import os
from pathlib import Path

from coordinator.errors import Conflict
from wire.files import sync_folder


class Spool:
    """A folder of uploads. Blocking: call it off the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, assignment: str) -> Path:
        """The file of one assignment's update. The id's form was checked when it came in."""
        return self._folder / f"{assignment}.update"

    def size(self, assignment: str) -> int:
        """Bytes received so far."""
        try:
            return self.path(assignment).stat().st_size
        except FileNotFoundError:
            return 0

    def write(self, assignment: str, offset: int, data: bytes) -> int:
        """Write `data` at `offset`; returns the offset after it.

        Raises `Conflict` for a gap after what is there, `OSError` when the disk is full.
        """
        descriptor = os.open(self.path(assignment), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if offset > (held := os.fstat(descriptor).st_size):
                detail = f"{held} bytes are here, not {offset}"
                raise Conflict("wrong_offset", detail, {"Upload-Offset": str(held)})
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                offset += written
                view = view[written:]
        finally:
            os.close(descriptor)
        return offset

    def seal(self, assignment: str) -> bytes:
        """Make a complete upload durable; returns its bytes."""
        with self.path(assignment).open("rb+") as file:
            os.fsync(file.fileno())
            data = file.read()
        sync_folder(self._folder)
        return data

    def read(self, assignment: str) -> bytes:
        """The bytes of an accepted update."""
        return self.path(assignment).read_bytes()

    def drop(self, assignment: str) -> None:
        """Forget an upload, if it is there."""
        self.path(assignment).unlink(missing_ok=True)

    def held(self) -> list[str]:
        """The assignments that have a file."""
        return [path.stem for path in self._folder.glob("*.update")]
