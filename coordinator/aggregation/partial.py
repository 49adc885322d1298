"""A sum as bytes: what one coordinator process leaves for the one that closes the round.

Little-endian: a header, the low limbs (4 bytes a weight), the high limbs (1, 2, 4 or 8 bytes a
weight, the fewest that hold them all), the SHA-256 of everything before it. The same sum has the
same bytes, however it came about.
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coordinator.aggregation.cells import LARGEST, MOST_NUMBERS, Limbs
from coordinator.aggregation.layout import Layout
from wire.errors import Rule, WireError

_MAGIC = b"LSUM"
_VERSION = 1
# Magic, version, bytes of a high limb, weights of the model, updates, examples, weight, work (16
# bytes), recipe (16 bytes).
_HEADER = struct.Struct("<4sHHQQQQ16s16s")
_DIGEST = 32
_WIDTHS = (1, 2, 4, 8)
_HIGHEST = 2 * (LARGEST >> 32)  # high limb of one number, at most, with room for its rounding

_Integers = npt.NDArray[np.signedinteger[Any]]


class Counts(NamedTuple):
    """What a sum counts beside its numbers: see `Sum`."""

    updates: int
    examples: int
    weight: int
    work: int


def write(counts: Counts, limbs: list[Limbs], recipe: bytes) -> bytes:
    """The bytes of a sum; `recipe` is the 16 bytes that name what it is of."""
    width = _width(part.high for part in limbs)
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        width,
        sum(part.low.size for part in limbs),
        *counts[:3],
        counts.work.to_bytes(16, "little"),
        recipe,
    )
    parts = [header]
    parts += [part.low.astype("<u4").tobytes() for part in limbs]
    parts += [part.high.astype(f"<i{width}").tobytes() for part in limbs]
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part)
    return b"".join([*parts, hashed.digest()])


def read(data: bytes, recipe: bytes, layout: Layout) -> tuple[Counts, list[Limbs]]:
    """What `write` wrote, for the same recipe: limbs by block of the layout. Raises `WireError`."""
    if len(data) < _HEADER.size + _DIGEST:
        raise WireError(Rule.TRUNCATED, f"a partial sum of {len(data)} bytes")
    magic, version, width, size, *counted, work, made_by = _HEADER.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION) or width not in _WIDTHS:
        raise WireError(Rule.BAD_FORMAT, "not a partial sum of this version")
    if size != layout.size or made_by != recipe:
        raise WireError(Rule.WRONG_SHAPE, "a partial sum of another task, or of other settings")
    expected = _HEADER.size + (4 + width) * size + _DIGEST
    if len(data) != expected:
        raise WireError(Rule.TRUNCATED, f"a partial sum of {len(data)} bytes, not {expected}")
    if hashlib.sha256(memoryview(data)[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise WireError(Rule.BAD_DIGEST, "a partial sum whose digest is not its own")
    updates, examples, weight = counted
    counts = Counts(updates, examples, weight, int.from_bytes(work, "little"))
    low = np.frombuffer(data, "<u4", size, _HEADER.size)
    high = np.frombuffer(data, f"<i{width}", size, _HEADER.size + 4 * size)
    _check(counts, high, width)
    return counts, [_limbs(high, low, slice(b.start, b.stop)) for b in layout.blocks]


def _check(counts: Counts, high: _Integers, width: int) -> None:
    updates = counts.updates
    if updates > MOST_NUMBERS or updates > min(counts.weight, counts.examples, counts.work):
        raise WireError(Rule.BAD_FORMAT, f"a partial sum that counts {counts}")
    if _width([high]) != width or _far(high) > updates * _HIGHEST:
        raise WireError(Rule.BAD_FORMAT, "the high limbs of a partial sum are out of range")


def _limbs(high: _Integers, low: npt.NDArray[np.uint32], part: slice) -> Limbs:
    return Limbs(high[part].astype(np.int64), low[part].astype(np.uint32))


def _width(highs: Iterable[_Integers]) -> int:
    """The fewest bytes that hold every one of these integers."""
    far = max((_far(part) for part in highs), default=0)
    return next(width for width in _WIDTHS if far < 1 << (8 * width - 1))


def _far(part: _Integers) -> int:
    """The smallest n >= 0 with -n - 1 <= every integer <= n."""
    return max(int(part.max(initial=0)), -int(part.min(initial=0)) - 1)
