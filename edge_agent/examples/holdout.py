"""Which examples are held out of training: their own bytes decide, so none ever changes sides."""

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from wire.tensors import Array

_BLOCK_BYTES = 1 << 16  # of examples side by side: it fits a small processor's cache


def held_out(arrays: Mapping[str, Array], part: float) -> Array:
    """A mask of the examples that are held out, about `part` of all.

    The bytes of an example are those of its inputs, in their order and types, C order, little
    endian. So equal examples are on one side, whatever file or format they came from. Devices
    hold data that was divided so: the function must stay as it is.
    """
    columns = list(arrays.values())
    count = len(columns[0])
    widths = [int(np.prod(c.shape[1:], dtype=int)) * c.dtype.itemsize for c in columns]
    at_once = max(1, _BLOCK_BYTES // max(1, sum(widths)))
    digests = b"".join(
        _digests([_bytes(c[at : at + at_once], w) for c, w in zip(columns, widths, strict=True)])
        for at in range(0, count, at_once)
    )
    held: Array = np.frombuffer(digests, ">u8") / 2.0**64 < part
    return held


def _bytes(column: Array, width: int) -> Array:
    """An example's bytes in each row."""
    return np.ascontiguousarray(column).reshape(-1).view(np.uint8).reshape(len(column), width)


def _digests(columns: list[Array]) -> bytes:
    """Eight bytes for each row, one after the other."""
    table = np.concatenate(columns, axis=1)
    data, width = table.tobytes(), table.shape[1]
    return b"".join(
        [
            blake2b(data[at * width : (at + 1) * width], digest_size=8).digest()
            for at in range(len(table))
        ]
    )
