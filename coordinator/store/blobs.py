"""Blobs: immutable bytes named by their digest. Plans' files and models live here.

Each is stored as it is and as a zstd frame, whichever a device asks for, so that serving one is
sending a file. A blob is durable before anything refers to it.
"""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from coordinator.errors import NotFound
from wire import compression
from wire.digest import digest_of, hex_of, verify
from wire.errors import WireError
from wire.files import write_durably

log = logging.getLogger(__name__)

_LEFT_SECONDS = 86400.0


class Blobs(Protocol):
    """A place for blobs, which other processes may share. `WireError` (bad_digest) is raised for
    what is no digest."""

    async def put(self, data: bytes) -> str:
        """Store `data` durably; returns its digest. Storing it again changes nothing, unless what
        is there is damaged."""

    async def get(self, digest: str) -> bytes:
        """The blob, its digest checked. Raises `NotFound`, or `WireError` when it is damaged."""

    async def source(self, digest: str, compressed: bool = False) -> Path | bytes:
        """What to serve: the blob or its zstd frame, in a local file, or in memory where there is
        no room for a file. Raises `NotFound`."""

    async def has(self, digest: str) -> bool:
        """Whether it is there."""

    async def remove(self, digest: str) -> None:
        """Delete a blob that nothing refers to, if it is there."""

    async def tidy(self) -> None:
        """Delete what is kept here, beside the truth, of blobs that are no more."""


class BlobStore:
    """`Blobs` in a folder. Made in a thread: it creates the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sound: set[Path] = set()  # files that were checked, or written here
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for aside in folder.glob(".*.new"):  # of a process that was killed
            if time.time() - aside.stat().st_mtime > _LEFT_SECONDS:
                aside.unlink(missing_ok=True)

    async def put(self, data: bytes) -> str:
        """Store `data` durably; returns its digest."""
        return await asyncio.to_thread(self._put, data)

    async def get(self, digest: str) -> bytes:
        """The blob, its digest checked. Raises `NotFound`, or `WireError` when it is damaged."""
        return await asyncio.to_thread(self._get, digest)

    async def source(self, digest: str, compressed: bool = False) -> Path:
        """A local file to serve: the blob, or its zstd frame. Checked before it is first served: no
        device can do anything with a damaged one, and a frame is easily made again. Raises as `get`
        does, and `OSError`."""
        return await asyncio.to_thread(self._served, digest, compressed)

    async def has(self, digest: str) -> bool:
        """Whether it is there."""
        return await asyncio.to_thread(self._path(digest).exists)

    async def remove(self, digest: str) -> None:
        """Delete a blob that nothing refers to, if it is there."""
        await asyncio.to_thread(self._remove, digest)

    async def tidy(self) -> None:
        """There is nothing beside the files themselves."""

    def _remove(self, digest: str) -> None:
        with self._alone():
            self._path(digest).unlink(missing_ok=True)
            self._path(digest, compressed=True).unlink(missing_ok=True)

    def _put(self, data: bytes) -> str:
        digest = digest_of(data)
        path = self._path(digest)
        with self._alone():
            if not path.exists() or path.read_bytes() != data:
                # The plain file comes last: while it is missing, the other one may be half.
                write_durably(self._path(digest, compressed=True), compression.compress(data))
                write_durably(path, data)
                self._sound |= {path, self._path(digest, compressed=True)}
        return digest

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Blocking: nobody else puts a blob, in any process: two that put the same one would write
        to the same file aside."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _get(self, digest: str) -> bytes:
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise _unknown(digest) from None
        try:
            verify(data, digest)
        except WireError:
            log.error("the blob %s is damaged: restore it from a backup", path)
            raise
        return data

    def _served(self, digest: str, compressed: bool) -> Path:
        path = self._path(digest, compressed)
        if path not in self._sound or not path.exists():
            data = self._get(digest)
            if compressed and not _is_frame(path, data):
                log.warning("the frame %s is damaged or gone: it is made again", path)
                with self._alone():
                    write_durably(path, compression.compress(data))
            self._sound.add(path)
        return path

    def _path(self, digest: str, compressed: bool = False) -> Path:
        return self._folder / (hex_of(digest) + (".zst" if compressed else ""))


def _is_frame(path: Path, data: bytes) -> bool:
    try:
        return compression.decompress(path.read_bytes(), max(1, len(data))) == data
    except (FileNotFoundError, WireError):
        return False


def _unknown(digest: str) -> NotFound:
    return NotFound("unknown_blob", f"no blob {digest}")
