"""Blobs: immutable bytes named by their digest. Plans' files and models live here.

Each is stored as it is and as a zstd frame, whichever a device asks for, so that serving one is
sending a file. A blob is durable before anything refers to it.
"""

from pathlib import Path

from coordinator.errors import NotFound
from wire import compression
from wire.digest import digest_of, hex_of, verify
from wire.files import write_durably


class BlobStore:
    """A folder of blobs. Blocking: call it off the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store `data` durably; returns its digest. Storing it again costs nothing."""
        digest = digest_of(data)
        if not self.path(digest).exists():
            write_durably(self.path(digest, compressed=True), compression.compress(data))
            write_durably(self.path(digest), data)
        return digest

    def get(self, digest: str) -> bytes:
        """The blob, its digest checked. Raises `NotFound`, or `WireError` when it is damaged."""
        try:
            data = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound("unknown_blob", f"no blob {digest}") from None
        verify(data, digest)
        return data

    def path(self, digest: str, compressed: bool = False) -> Path:
        """Where a blob lies, or would. The digest's form was checked when it came in."""
        return self._folder / (hex_of(digest) + (".zst" if compressed else ""))
