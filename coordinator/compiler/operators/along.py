"""Constant indices along one axis, and their gradient: no scatter at run time.

Y[.., j, ..] = X[.., index[j], ..]; so dX[.., i, ..] is the sum of dY over all j with index[j] = i.
"""

from collections.abc import Sequence

import numpy as np

from coordinator.compiler.graph import Array, Emitter, Shape

_COPIES = 3
"""So many elements of dY, at most, are added one gather after the other; more in a product."""


def target(shape: Shape) -> list[int]:
    """A shape as Reshape wants it: -1 for the one axis that varies."""
    return [n if isinstance(n, int) else -1 for n in shape]


def spread(emit: Emitter, dy: str, shape: Shape, axis: int, index: Array) -> str:
    """dX of `shape`; dY is as X but for `axis`, which is as long as `index`.

    `index` are places in X, none negative.
    """
    length = shape[axis]
    assert isinstance(length, int)
    if np.array_equal(index, np.arange(length)):
        return dy
    if len(index) and np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        return zeros_around(emit, dy, axis, int(index[0]), length - len(index) - int(index[0]))
    count = np.bincount(index, minlength=length)
    if count.max(initial=0) > _COPIES:
        return product(emit, dy, shape, axis, index[None, :] == np.arange(length)[:, None])
    # Where no element of dY belongs, the gather takes the zero that is put after the last.
    padded = dy if count.min(initial=0) == count.max() else zeros_around(emit, dy, axis, 0, 1)
    order = np.argsort(index, kind="stable")
    first = np.concatenate(([0], np.cumsum(count)))[:-1]
    total = ""
    for copy in range(int(count.max())):
        places = np.full(length, len(index), np.int64)
        has = count > copy
        places[has] = order[first[has] + copy]
        part = emit.op("Gather", padded, emit.ints(*places), axis=axis)
        total = emit.op("Add", total, part) if total else part
    return total


def product(emit: Emitter, dy: str, shape: Shape, axis: int, matrix: Array) -> str:
    """dX = matrix dY along `axis`; `matrix` is [length in X, length in dY]."""
    inner = shape[axis + 1 :]
    weights = matrix.astype(np.float32)
    if not inner:
        return emit.op("MatMul", dy, emit.const(weights.T))
    flat = emit.op("Reshape", dy, emit.ints(-1, matrix.shape[1], _product(inner)))
    dx = emit.op("MatMul", emit.const(weights), flat)
    return emit.op("Reshape", dx, emit.ints(*target(shape)))


def _product(lengths: Sequence[int | str]) -> int:
    return int(np.prod([int(n) for n in lengths]))


def zeros_around(emit: Emitter, tensor: str, axis: int, before: int, after: int) -> str:
    """The tensor with so many zeros before and after it along one axis."""
    if not before and not after:
        return tensor
    return emit.op("Pad", tensor, emit.ints(before, after), emit.const(0.0), emit.ints(axis))
