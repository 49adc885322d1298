"""Blobs in the database, with a local folder in front: what devices are sent are local files.

The database holds the truth, the folder may be deleted at any time. A file in it is checked against
its digest before it is first served; one that is damaged is fetched again. While the folder takes
nothing, as on a full disk, the last blobs that were fetched are served from memory.
"""

import asyncio
import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from coordinator.errors import NotFound
from coordinator.store.sql import Steps, Store, one, rows
from wire import compression
from wire.digest import digest_of, hex_of, verify
from wire.errors import WireError
from wire.files import write_durably

log = logging.getLogger(__name__)

_HELD = 4  # blobs in memory at most: a plan's files and a model
_RETRY_SECONDS = 30.0  # until the folder is tried again for one that is held
_LOOKED_UP = 500  # blobs at a time
_HEX = re.compile(r"[0-9a-f]{64}")
_PART_BYTES = 8 << 20  # of a large blob: in one statement it would want three times its size


class _Held(NamedTuple):
    """A blob that the folder did not take, its zstd frame, and until when it is not tried again."""

    data: bytes
    frame: bytes
    until: float


class PostgresBlobs:
    """Immutable bytes named by their digest, shared by every process over the store."""

    def __init__(self, store: Store, folder: Path) -> None:
        """`folder` need not exist, and may be shared by the processes of one machine."""
        self._store = store
        self._folder = folder
        self._sound: set[Path] = set()  # files that were checked
        self._held: dict[str, _Held] = {}  # what the folder did not take, the oldest first
        self._fetching: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def put(self, data: bytes) -> str:
        """Store `data`, durable on return; its digest. Storing it again changes nothing, unless
        what is there is damaged. Raises `StoreUnavailable`."""
        digest = await asyncio.to_thread(digest_of, data)
        await self._store.run(_put, digest, data)
        return digest

    async def has(self, digest: str) -> bool:
        """Whether the database holds a blob. Raises `WireError` for what is no digest."""
        hex_of(digest)
        return await self._store.read(_has, digest)

    async def get(self, digest: str) -> bytes:
        """The blob, its digest checked. Raises `NotFound`, `WireError` when it is damaged in the
        database itself, or `StoreUnavailable`."""
        if await self._sound_file(digest, compressed=False):
            with suppress(OSError, WireError):
                return await asyncio.to_thread(self._read, digest)
        async with self._alone(digest):
            return await self._fetch(digest)

    async def source(self, digest: str, compressed: bool = False) -> Path | bytes:
        """A local file with the blob, or with it as a zstd frame; the bytes themselves while the
        folder does not take them. Raises as `get` does."""
        if not await self._sound_file(digest, compressed):
            async with self._alone(digest):
                if not await self._sound_file(digest, compressed):
                    await self._fetch(digest)
        held = self._held.get(digest)
        if held is None:
            return self._file(digest, compressed)
        return held.frame if compressed else held.data

    async def remove(self, digest: str) -> None:
        """Delete a blob that nothing refers to, in the database and here. Raises
        `StoreUnavailable`."""
        async with self._alone(digest):
            await self._store.run(_remove, digest)
            await asyncio.to_thread(self._unlink, digest)

    async def tidy(self) -> None:
        """Delete what is here of blobs that the database has no more. Raises
        `StoreUnavailable`."""
        here = await asyncio.to_thread(self._digests)
        for start in range(0, len(here), _LOOKED_UP):
            some = here[start : start + _LOOKED_UP]
            for digest in set(some) - await self._store.read(_known, some):
                await asyncio.to_thread(self._unlink, digest)

    def _alone(self, digest: str) -> asyncio.Lock:
        """A fleet that asks for a new model at once has it fetched once."""
        lock = self._fetching.get(digest)
        if lock is None:
            lock = self._fetching[digest] = asyncio.Lock()
        return lock

    async def _fetch(self, digest: str) -> bytes:
        now, held = asyncio.get_running_loop().time(), self._held.get(digest)
        if held is not None and now < held.until:
            return held.data
        data = await self._store.read(_get, digest) if held is None else held.data
        if data is None:
            raise NotFound("unknown_blob", f"no blob {digest}")
        try:
            await asyncio.to_thread(self._write, digest, data)
        except OSError as error:
            log.error(
                "%s is served from memory: %s takes no files: %s", digest, self._folder, error
            )
            await self._hold(digest, data, now + _RETRY_SECONDS)
        else:
            self._held.pop(digest, None)
        return data

    async def _hold(self, digest: str, data: bytes, until: float) -> None:
        frame = await asyncio.to_thread(compression.compress, data)
        self._held.pop(digest, None)
        while len(self._held) >= _HELD:
            del self._held[next(iter(self._held))]
        self._held[digest] = _Held(data, frame, until)

    async def _sound_file(self, digest: str, compressed: bool) -> bool:
        return await asyncio.to_thread(self._check, digest, compressed)

    # Blocking

    def _file(self, digest: str, compressed: bool) -> Path:
        return self._folder / (hex_of(digest) + (".zst" if compressed else ""))

    def _digests(self) -> list[str]:
        """Of what is in memory or in a file."""
        found = set(self._held)
        with suppress(FileNotFoundError):
            names = (path.name for path in self._folder.iterdir())
            found |= {f"sha256:{name}" for name in names if _HEX.fullmatch(name)}
        return sorted(found)

    def _unlink(self, digest: str) -> None:
        self._held.pop(digest, None)
        for compressed in (False, True):
            file = self._file(digest, compressed)
            self._sound.discard(file)
            file.unlink(missing_ok=True)

    def _check(self, digest: str, compressed: bool) -> bool:
        file = self._file(digest, compressed)
        if file in self._sound and file.exists():
            return True
        try:
            data = self._read(digest)
            if compressed and compression.decompress(file.read_bytes(), max(1, len(data))) != data:
                return False
        except (OSError, WireError):
            return False
        self._sound.add(file)
        return True

    def _read(self, digest: str) -> bytes:
        data = self._file(digest, compressed=False).read_bytes()
        verify(data, digest)
        return data

    def _write(self, digest: str, data: bytes) -> None:
        verify(data, digest)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._file(digest, compressed=True), compression.compress(data))
        write_durably(self._file(digest, compressed=False), data)
        self._sound |= {self._file(digest, compressed) for compressed in (False, True)}


def _put(digest: str, data: bytes) -> Steps[None]:
    for part, start in enumerate(range(0, max(1, len(data)), _PART_BYTES)):
        yield from rows(
            """INSERT INTO blobs AS b (digest, part, data) VALUES ($1, $2, $3)
            ON CONFLICT (digest, part) DO UPDATE SET data = excluded.data
            WHERE b.data <> excluded.data""",
            *(digest, part, data[start : start + _PART_BYTES]),
        )


def _remove(digest: str) -> Steps[None]:
    yield from rows("DELETE FROM blobs WHERE digest = $1", digest)


def _known(digests: list[str]) -> Steps[set[str]]:
    marks = ", ".join(f"${number}" for number in range(1, len(digests) + 1))
    text = f"SELECT digest FROM blobs WHERE part = 0 AND digest IN ({marks})"
    return {row["digest"] for row in (yield from rows(text, *digests))}


def _has(digest: str) -> Steps[bool]:
    return bool((yield from rows("SELECT 1 FROM blobs WHERE digest = $1 AND part = 0", digest)))


def _get(digest: str) -> Steps[bytes | None]:
    parts: list[bytes] = []
    text = "SELECT data FROM blobs WHERE digest = $1 AND part = $2"
    while found := (yield from one(text, digest, len(parts))):
        parts.append(found["data"])
    return b"".join(parts) if parts else None
