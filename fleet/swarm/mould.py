"""Updates that differ in their assignment alone, made in microseconds.

Coding and compressing an update costs milliseconds, and each holds its own assignment's id: too
dear for a hundred thousand of them. Here the tensors are compressed once. A zstd frame is a row of
blocks, and what a block refers back to lies a stated distance behind it: so the blocks of the
tensors may follow any other block. In front of them comes one block that is not compressed, with
the file's header, the id in it.

Format of a frame: RFC 8878, section 3.1.1.
"""

import base64
import hashlib
from typing import NamedTuple

import numpy as np
import zstandard

from fleet.clients import header
from wire import compression, update
from wire.checkpoint import Weights
from wire.messages import Assignment

_PLAIN_LIMIT = 1 << 30
_MAGIC = bytes.fromhex("28b52ffd")
_DESCRIPTOR = b"\xa0"  # content size of four bytes, a single segment, no checksum, no dictionary
_BLOCK_LIMIT = 1 << 17


class Body(NamedTuple):
    """An update's bytes: `front` is its own, `tail` is shared with every other of its mould."""

    front: bytes
    tail: bytes

    @property
    def length(self) -> int:
        """Bytes in all."""
        return len(self.front) + len(self.tail)

    @property
    def digest(self) -> str:
        """As `Repr-Digest` says it."""
        found = hashlib.sha256(self.front)
        found.update(self.tail)
        return f"sha-256=:{base64.b64encode(found.digest()).decode()}:"


class Mould:
    """Makes updates that carry `delta`, for assignments of one round: those of the same task, plan,
    model and codec as `assignment`."""

    def __init__(self, assignment: Assignment, delta: Weights, examples: int = 10) -> None:
        whole = update.write(
            header(assignment, examples), delta, np.random.default_rng(assignment.seed)
        )
        plain = compression.decompress(whole, _PLAIN_LIMIT)
        length = int.from_bytes(plain[:8], "little")
        self._before, mark, self._after = (
            plain[8 : 8 + length].rstrip(b" ").partition(assignment.id.encode())
        )
        assert mark, "an update holds its assignment"
        tensors = plain[8 + length :]
        self._tensors = len(tensors)
        self._tail = _blocks(compression.compress(tensors))

    def cast(self, assignment: str) -> Body:
        """The update for one assignment, by its id."""
        text = self._before + assignment.encode() + self._after
        text += b" " * (-len(text) % 8)
        plain = len(text).to_bytes(8, "little") + text
        assert len(plain) <= _BLOCK_LIMIT, "one block holds the header"
        size = (len(plain) + self._tensors).to_bytes(4, "little")
        block = (len(plain) << 3).to_bytes(3, "little")  # not the last one; as it is
        return Body(b"".join((_MAGIC, _DESCRIPTOR, size, block, plain)), self._tail)


def _blocks(frame: bytes) -> bytes:
    """The blocks of a zstd frame without a checksum."""
    assert not zstandard.get_frame_parameters(frame).has_checksum
    return frame[zstandard.frame_header_size(frame) :]
