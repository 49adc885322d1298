"""Segments: the bytes of kept updates, one append-only file for each (task, round, node).

Appending to one file and syncing it once for many updates is what makes an acknowledgement cheap;
a file for each update would cost a sync each, and a folder of 100,000 names. Blocking; one thread
appends. A segment belongs to one node, so no two processes ever append to the same.

Before each update stand its length and checksum: so what is whole is found also when the database
has lost the row that spoke of it.
"""

import os
import re
import struct
import zlib
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from wire.files import sync_folder

_OPEN = 64  # segments that are kept open: a node rarely has as many rounds open
_PROBE = bytes(1 << 20)  # with less than this left, a disk is called full
_PROBE_FILE = ".probe"
_SAFE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME = re.compile(r"[^.]+\.[0-9]+\.[^.]+\.log")
_ZEROS = bytes(1 << 20)
_AT_ONCE = 512  # buffers of one write: Linux takes 1,024
_HEAD = struct.Struct("<8sQI")  # a mark, the length, the checksum
_MARK = b"update-1"


class _Open:
    """A segment that is open for appending."""

    __slots__ = ("descriptor", "dirty", "path", "size")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor
        self.size = os.fstat(descriptor).st_size
        self.dirty = False


class _Appended(NamedTuple):
    name: str
    start: int


class Place(NamedTuple):
    """Where an update lies in its segment, and its CRC-32."""

    start: int
    length: int
    crc: int


def segment_name(task: str, round: int, node: str) -> str:
    """The file's name. No part of it holds a dot, so no two are alike. Raises `ValueError`."""
    if not (_SAFE.fullmatch(task) and _SAFE.fullmatch(node)):
        raise ValueError(f"neither {task!r} nor {node!r} may be more than letters, digits and '-'")
    return f"{task}.{int(round)}.{node}.log"


class Owner(NamedTuple):
    """What a segment is of."""

    task: str
    round: int
    node: str


def owner(name: str) -> Owner:
    """What a segment is of, by its name."""
    task, number, node, _ = name.split(".")
    return Owner(task, int(number), node)


class Segments:
    """A folder of segments."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._appended: list[_Appended] = []  # since the last flush that was settled
        self._created = False
        self._there: set[str] = set()  # segments seen since the last group

    # Writing: append, flush, and then settle or rewind

    def append(self, name: str, updates: Sequence[bytes]) -> list[Place]:
        """Append one after the other; returns where each lies. Not durable before `flush`. Raises
        `OSError`; then nothing is left of it after `rewind`."""
        segment = self._opened(name)
        self._appended.append(_Appended(name, segment.size))
        segment.dirty = True
        end, places = segment.size, list[Place]()
        buffers = list[bytes]()
        for data in updates:
            place = Place(end + _HEAD.size, len(data), zlib.crc32(data))
            buffers += (_HEAD.pack(_MARK, place.length, place.crc), data)
            places.append(place)
            end = place.start + place.length
        segment.size = _write_all(segment.descriptor, buffers, segment.size)
        return places

    def flush(self) -> None:
        """Make what was appended durable. Raises `OSError`."""
        for segment in self._open.values():
            if segment.dirty:
                os.fsync(segment.descriptor)
                segment.dirty = False
                _drop_from_memory(segment.descriptor)
        if self._created:
            sync_folder(self._folder)
            self._created = False

    def mark(self) -> int:
        """A point to `rewind` to."""
        return len(self._appended)

    def rewind(self, mark: int = 0) -> None:
        """Take back what was appended since `mark`. Raises `OSError`; then the bytes stay, and
        nothing refers to them."""
        while len(self._appended) > mark:
            name, start = self._appended.pop()
            segment = self._opened(name)
            os.ftruncate(segment.descriptor, start)
            segment.size = start
        if not mark:
            self.settle()

    def settle(self) -> None:
        """What was appended stays, and the group is over: others may put segments aside."""
        self._appended.clear()
        self._there.clear()

    # Reading and removing: from any thread

    def read(self, name: str, start: int, length: int) -> bytes:
        """Bytes of a segment; fewer when it ends before. Raises `OSError`."""
        # Opened each time: a descriptor that is kept would outlive its file.
        descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(descriptor, length, start)
            while len(data) < length:
                more = os.pread(descriptor, length - len(data), start + len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            os.close(descriptor)

    def strays(self, name: str, known: Container[int]) -> Iterator[tuple[Place, bytes]]:
        """The whole updates of a segment but those that start at a place that is `known`. What is
        torn or overwritten is none. Raises `OSError`."""
        position, size = 0, (self._folder / name).stat().st_size
        while position + _HEAD.size <= size:
            mark, length, crc = _HEAD.unpack(self.read(name, position, _HEAD.size))
            place = Place(position + _HEAD.size, length, crc)
            if mark != _MARK or place.start + length > size:
                return  # the last that was written: a power cut took it
            if place.start not in known:
                data = self.read(name, *place[:2])
                if zlib.crc32(data) == crc:
                    yield place, data
            position = place.start + length

    def wipe(self, name: str, start: int, length: int) -> None:
        """Overwrite bytes by zeros, durably, if the segment is still there. Raises `OSError`."""
        try:
            descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        try:
            end = min(start + length, os.fstat(descriptor).st_size)
            for offset in range(start, end, len(_ZEROS)):
                _write_all(descriptor, [_ZEROS[: end - offset]], offset)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def put_aside(self, name: str) -> Path | None:
        """Take a segment out of use; returns the file, which is to be unlinked. A rename takes no
        time, unlinking gigabytes does: only this must happen while nobody appends."""
        aside = self._folder / f"{name}.gone"
        try:
            (self._folder / name).rename(aside)
        except FileNotFoundError:
            return None
        return aside

    def sweep(self, used: set[str]) -> None:
        """Delete all but the segments in `used`. Only while no node is at work."""
        for path in self._folder.iterdir():
            ours = path.name.endswith((".log", ".gone")) or path.name == _PROBE_FILE
            if ours and path.name not in used:
                path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """The segments that are there, but for those that were put aside."""
        return sorted(p.name for p in self._folder.iterdir() if _NAME.fullmatch(p.name))

    def probe(self) -> None:
        """Raises `OSError` unless the disk takes some bytes now."""
        path = self._folder / _PROBE_FILE
        try:
            path.write_bytes(_PROBE)
        finally:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of every file."""
        for segment in self._open.values():
            os.close(segment.descriptor)
        self._open.clear()

    def _opened(self, name: str) -> _Open:
        segment = self._open.get(name)
        if segment is not None:
            if name in self._there or segment.path.exists():
                self._there.add(name)
                self._open.move_to_end(name)
                return segment
            os.close(self._open.pop(name).descriptor)  # its round was discarded meanwhile
        path = self._folder / name
        self._created |= not path.exists()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        segment = self._open[name] = _Open(path, os.open(path, flags, 0o600))
        self._close_oldest()
        return segment

    def _close_oldest(self) -> None:
        while len(self._open) > _OPEN:
            _, oldest = self._open.popitem(last=False)
            try:
                if oldest.dirty:
                    os.fsync(oldest.descriptor)
            finally:
                os.close(oldest.descriptor)


def _drop_from_memory(descriptor: int) -> None:
    """What is on the disk needs no page of the system's cache: most of it is never read again."""
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_all(descriptor: int, data: Sequence[bytes], offset: int) -> int:
    """Returns the offset after them. One call for many: each would let go of the interpreter."""
    for first in range(0, len(data), _AT_ONCE):
        views = [memoryview(part) for part in data[first : first + _AT_ONCE]]
        while views:
            written = os.pwritev(descriptor, views, offset)
            offset += written
            views = _rest(views, written)
    return offset


def _rest(views: list[memoryview], written: int) -> list[memoryview]:
    """What is left of them after so many bytes."""
    for number, view in enumerate(views):
        if written < len(view):
            return [view[written:], *views[number + 1 :]]
        written -= len(view)
    return []
