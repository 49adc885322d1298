"""Parts: uploads on their way in. One file for each, which begins with what was announced.

Not durable on purpose: bytes that a power cut takes are sent again, and a digest proves the rest.
Any process of the machine may take any piece: what was announced is read from the file each time,
and announcing anew replaces the file in one step, so there is nothing to keep in agreement.
Blocking: call it off the event loop. Nothing here lists the folder but `held` and `sweep`.
"""

import os
import re
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from coordinator.errors import Conflict, NotFound, TooLarge
from wire.digest import hex_of, verify

_ANNOUNCED = struct.Struct("<8sQ32s")  # a mark, the length, the sha256
_MARK = b"upload-1"
_SUFFIX = ".part"
_NEW = ".new"
_SAFE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class _Part(NamedTuple):
    """An upload's file, open."""

    descriptor: int
    length: int
    digest: str

    @property
    def held(self) -> int:
        return min(os.fstat(self.descriptor).st_size - _ANNOUNCED.size, self.length)


class Parts:
    """A folder of uploads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._make()

    def announce(self, assignment: str, length: int, digest: str) -> int:
        """An upload of `length` bytes begins, or goes on from the offset returned. Announced
        otherwise before, what was sent of that is dropped. Raises `OSError`, as the others do."""
        with self._opened(assignment) as part:
            if part is not None and (part.length, part.digest) == (length, digest):
                return part.held
        path = self._path(assignment)
        aside = path.with_suffix(f".{secrets.token_hex(8)}{_NEW}")
        try:
            descriptor = self._create(aside)
            try:
                sha256 = bytes.fromhex(hex_of(digest))
                _write_all(descriptor, _ANNOUNCED.pack(_MARK, length, sha256), 0)
            finally:
                os.close(descriptor)
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        return 0

    def announced(self, assignment: str) -> tuple[int, str] | None:
        """Length and digest as announced; `None` when nothing is."""
        with self._opened(assignment) as part:
            return None if part is None else (part.length, part.digest)

    def size(self, assignment: str) -> int:
        """Bytes received so far."""
        with self._opened(assignment) as part:
            return 0 if part is None else part.held

    def write(self, assignment: str, digest: str, offset: int, data: bytes) -> int:
        """Write `data` at `offset` of the upload that was announced with `digest`; returns the
        offset after it.

        Raises `NotFound` (not_announced), `Conflict` (superseded: another was announced since;
        wrong_offset: a gap after what is there), `TooLarge`, `OSError` when the disk is full.
        """
        with self._announced_as(assignment, digest) as part:
            if offset > (held := part.held):
                detail = f"{held} bytes are here, not {offset}"
                raise Conflict("wrong_offset", detail, {"Upload-Offset": str(held)})
            if offset + len(data) > part.length:
                detail = f"more than the {part.length} bytes that were announced"
                raise TooLarge("too_large", detail)
            _write_all(part.descriptor, data, _ANNOUNCED.size + offset)
            return offset + len(data)

    def read(self, assignment: str, digest: str) -> bytes:
        """The bytes of an upload that is complete. Raises `NotFound`, `Conflict`, and `WireError`
        (bad_digest) when they are not what was announced."""
        with (
            self._announced_as(assignment, digest) as part,
            os.fdopen(os.dup(part.descriptor), "rb") as file,
        ):
            file.seek(_ANNOUNCED.size)
            data = file.read(part.length)
        verify(data, digest)
        return data

    def drop(self, assignment: str) -> None:
        """Forget an upload, if it is there."""
        self._path(assignment).unlink(missing_ok=True)

    def held(self) -> list[str]:
        """The assignments that have one."""
        self._make()
        with os.scandir(self._folder) as found:
            return [e.name.removesuffix(_SUFFIX) for e in found if e.name.endswith(_SUFFIX)]

    def sweep(self, older_than: float) -> None:
        """Delete the uploads to which nothing was added for `older_than` seconds."""
        self._make()
        with os.scandir(self._folder) as found:
            ages = [
                (Path(e.path), e.stat().st_mtime)
                for e in found
                if e.name.endswith((_SUFFIX, _NEW)) and e.is_file(follow_symlinks=False)
            ]
        now = self._files_now()
        for path, touched in ages:
            if now - touched > older_than:
                path.unlink(missing_ok=True)

    def _make(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _create(self, path: Path) -> int:
        """A new file; its folder, too, where somebody has deleted that: it is not precious."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make()
            return os.open(path, flags, 0o600)

    def _files_now(self) -> float:
        """The time by the clock that dates the folder's files."""
        path = self._folder / f"{secrets.token_hex(8)}{_NEW}"
        try:
            path.touch(mode=0o600)
            return path.stat().st_mtime
        finally:
            path.unlink(missing_ok=True)

    def _path(self, assignment: str) -> Path:
        if not _SAFE.fullmatch(assignment):  # a name from outside never becomes a path
            raise NotFound("unknown_assignment", f"no assignment {assignment[:80]!r}")
        return self._folder / f"{assignment}{_SUFFIX}"

    @contextmanager
    def _announced_as(self, assignment: str, digest: str) -> Iterator[_Part]:
        with self._opened(assignment) as part:
            if part is None:
                raise NotFound("not_announced", "announce the upload first, with POST")
            if part.digest != digest:
                raise Conflict("superseded", "another upload was announced for this assignment")
            yield part

    @contextmanager
    def _opened(self, assignment: str) -> Iterator[_Part | None]:
        try:
            descriptor = os.open(self._path(assignment), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            yield None
            return
        try:
            head = os.pread(descriptor, _ANNOUNCED.size, 0)
            if len(head) < _ANNOUNCED.size or not head.startswith(_MARK):
                yield None  # a power cut took it
            else:
                _, length, sha256 = _ANNOUNCED.unpack(head)
                yield _Part(descriptor, length, f"sha256:{sha256.hex()}")
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        offset += written
        view = view[written:]
