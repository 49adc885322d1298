"""The gradient of a convolution's weights, tap by tap: a tap is one element of the window.

What a tap saw of the image, at all places of the window, is a slice of it. As a convolution of the
image by the gradient, the whole would have a window as large as the image and a result as small as
the weights: ONNX Runtime takes up to ten times as long for it.
"""

from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from coordinator.compiler.graph import Array, Emitter
from coordinator.compiler.operators.windows import Windows

TAPS = 32
"""Elements of a window, at most: each costs a few nodes."""

_WIDE = 32  # columns of a matrix product, at least: it takes as long for fewer

_NARROW = 64  # columns of an image, at most, of whose rows a matrix product is made


class Part(NamedTuple):
    """What a tap saw, [N, C, places], and the values that go with it, [N, O, places]."""

    image: str
    values: str


@dataclass(frozen=True)
class Seen:
    """An image [N, C, *size], and values at each place of the windows that saw it: [N, O, *out]."""

    emit: Emitter
    image: str
    values: str
    windows: Windows
    size: tuple[int, ...]
    out: tuple[int, ...]

    def parts(self) -> list[Part]:
        """One for each tap."""
        image, values = self.padded(), self.line(self.values)
        return [Part(self.line(self.slice(image, at)), values) for at in self.starts()]

    def is_one_line(self) -> bool:
        """Whether each tap is a shift of the image by less than its length."""
        one_each = self.size == self.out and set(self.windows.strides) == {1}
        return one_each and max(map(abs, self.shifts().values())) < prod(self.out)

    def shifts(self) -> dict[tuple[int, ...], int]:
        """By how much each tap is away from its place: along each axis, and with all places in one
        line."""
        unit = [prod(self.out[i + 1 :]) for i in range(self.windows.rank)]
        moves = [
            tuple(a - b for a, b in zip(at, self.windows.before, strict=True))
            for at in self.starts()
        ]
        return {m: sum(a * u for a, u in zip(m, unit, strict=True)) for m in moves}

    def stays(self, move: tuple[int, ...]) -> Array:
        """Which elements of the image this move comes to without it leaves a row (or a plane): on
        all axes but the first. Shape: `out`."""
        inside = np.ones(self.out, bool)
        for axis, m in enumerate(move[1:], start=1):
            start = np.arange(self.out[axis]) - m
            along = [-1 if i == axis else 1 for i in range(len(self.out))]
            inside &= ((start >= 0) & (start < self.out[axis])).reshape(along)
        return inside

    def starts(self) -> list[tuple[int, ...]]:
        """The first place of each tap in the padded image."""
        steps = zip(self.windows.kernel, self.windows.dilations, strict=True)
        return list(product(*(range(0, k * d, d) for k, d in steps)))

    def padded(self) -> str:
        """The image with all that the windows reach."""
        before, covered = self.windows.before, self.windows.covered(self.out)
        after = [max(c - n - b, 0) for c, n, b in zip(covered, self.size, before, strict=True)]
        if not any(before) and not any(after):
            return self.image
        return self.emit.op("Pad", self.image, self.emit.ints(0, 0, *before, 0, 0, *after))

    def slice(self, image: str, starts: tuple[int, ...]) -> str:
        """What a tap sees: [N, C, *out]."""
        emit, strides = self.emit, self.windows.strides
        if prod(self.windows.kernel) == 1 and image == self.image and self.size == self.out:
            return image
        ends = [a + (o - 1) * s + 1 for a, o, s in zip(starts, self.out, strides, strict=True)]
        axes = emit.ints(*range(2, self.windows.rank + 2))
        return emit.op(
            "Slice", image, emit.ints(*starts), emit.ints(*ends), axes, emit.ints(*strides)
        )

    def line(self, tensor: str) -> str:
        """[N, C, *out] as [N, C, places]."""
        if self.windows.rank == 1:
            return tensor
        return self.emit.op("Reshape", tensor, self.emit.ints(0, 0, prod(self.out)))


def depthwise(seen: Seen) -> str:
    """dW [C, 1, ...] where each channel has a window of its own: the sums of products."""
    if seen.windows.rank > 1 and seen.size[-1] <= _NARROW:
        return _depthwise_by_rows(seen)
    emit, places = seen.emit, seen.emit.ints(0, 2)
    sums = [
        emit.op("ReduceSum", emit.op("Mul", part.image, part.values), places, keepdims=1)
        for part in seen.parts()
    ]
    dw = emit.op("Concat", *sums, axis=2) if len(sums) > 1 else sums[0]
    return emit.op("Reshape", dw, emit.ints(-1, 1, *seen.windows.kernel))


def _depthwise_by_rows(seen: Seen) -> str:
    """The same by matrix products of whole rows, those of all examples at once.

    For each row of the window, a channel's product [out, width] has the sum for each column of the
    values and each of the image; a tap's is that of a diagonal. It is many times the work in less
    time: what costs it is to pass over the image, not to multiply.
    """
    emit, windows, rank = seen.emit, seen.windows, seen.windows.rank
    width, wide = seen.out[-1], seen.size[-1]
    k, stride, dilation = windows.kernel[-1], windows.strides[-1], windows.dilations[-1]
    rows = replace(
        seen,
        windows=Windows(
            (*windows.kernel[:-1], 1),
            (*windows.strides[:-1], 1),
            (*windows.dilations[:-1], 1),
            (*windows.before[:-1], 0),
            (*windows.after[:-1], 0),
        ),
        out=(*seen.out[:-1], wide),
    )
    swap = [1, 0, *range(2, rank + 2)]
    values = emit.op("Transpose", seen.values, perm=swap)
    values = emit.op("Reshape", values, emit.ints(0, -1, width))
    values = emit.op("Transpose", values, perm=[0, 2, 1])
    image = emit.op("Transpose", rows.padded(), perm=swap)
    products = []
    for at in rows.starts():
        row = emit.op("Reshape", rows.slice(image, at), emit.ints(0, -1, wide))
        products.append(emit.op("MatMul", values, row))
    whole = emit.op("Concat", *products, axis=1) if len(products) > 1 else products[0]
    sees = np.add.outer(np.arange(width) * stride, np.arange(k) * dilation) - windows.before[-1]
    diagonals = sees[:, None, :] == np.arange(wide)[:, None]
    lines = emit.op("Reshape", whole, emit.ints(0, len(products), width * wide))
    dw = emit.op("MatMul", lines, emit.const(diagonals.reshape(width * wide, k)))
    return emit.op("Reshape", dw, emit.ints(-1, 1, *windows.kernel))


def dense(seen: Seen, channels: tuple[int, int]) -> str:
    """dW [O, C, ...] where each output sees all channels: matrix products of the values and of what
    the taps see, of so many taps at once as make it wide. `channels` are O and C."""
    emit, (n_out, n_in) = seen.emit, channels
    each = -(-_WIDE // n_in)
    taps = prod(seen.windows.kernel)
    if each == 1 and taps > 1 and seen.is_one_line():
        products = _products_of_line(seen)
    else:
        products = _products_of_parts(seen, channels, each)
    dw = emit.op("Concat", *products, axis=1) if len(products) > 1 else products[0]
    if taps > 1:
        dw = emit.op("Reshape", dw, emit.ints(n_out, taps, n_in))
        dw = emit.op("Transpose", dw, perm=[0, 2, 1])
    return emit.op("Reshape", dw, emit.ints(n_out, n_in, *seen.windows.kernel))


def _products_of_parts(seen: Seen, channels: tuple[int, int], each: int) -> list[str]:
    """dW [O, taps * C] in parts, of so many taps each."""
    emit, (n_out, n_in), parts = seen.emit, channels, seen.parts()
    wide = n_in * min(each, len(parts))
    # A product for each example is the faster, unless its result is larger than what it is of.
    of_all = n_out * wide > 2 * (n_out + wide) * prod(seen.out)
    multiply = _product_of_all if of_all else _products_by_example
    products = []
    for start in range(0, len(parts), each):
        group = parts[start : start + each]
        image = group[0].image
        if len(group) > 1:
            image = emit.op("Concat", *(part.image for part in group), axis=1)
        products.append(multiply(emit, group[0].values, image, (n_out, n_in * len(group))))
    return products


def _products_of_line(seen: Seen) -> list[str]:
    """dW [O, C] of each tap, where there is a place for each element of the image.

    All places of all examples are one line, and a tap is a shift along it: one product of two
    matrices, and no sum over examples. Between the examples are as many zeros as a shift is long.
    Where a shift brings the end of a row to the beginning of the next, the image is made 0.
    """
    emit, shifts, count = seen.emit, seen.shifts(), prod(seen.out)
    gap = max(abs(by) for by in shifts.values())
    values = emit.op("Transpose", seen.line(seen.values), perm=[1, 0, 2])
    values = emit.op("Pad", values, emit.ints(0, 0, 0, 0, 0, gap))
    values = emit.op("Reshape", values, emit.ints(0, -1))
    image = emit.op("Transpose", seen.line(seen.image), perm=[1, 0, 2])
    # Its zeros come first, and one example more of them last: so that no shift leaves the line.
    image = emit.op("Pad", image, emit.ints(0, 0, gap, 0, 1, 0))
    lines = {}
    for move in shifts:
        if move[1:] not in lines:
            seen_by = np.concatenate([np.ones(gap, bool), seen.stays(move).ravel()])
            kept = image if seen_by.all() else emit.op("Mul", image, emit.const(seen_by))
            lines[move[1:]] = emit.op("Reshape", kept, emit.ints(0, -1))
    products = []
    for move, by in shifts.items():
        ends = emit.ints(gap + by), emit.ints(by - count), emit.ints(1)
        products.append(emit.op("Gemm", values, emit.op("Slice", lines[move[1:]], *ends), transB=1))
    return products


def _products_by_example(emit: Emitter, left: str, right: str, sizes: tuple[int, int]) -> str:
    """The sum over the examples of left[n] right[n]': of [N, O, places] and [N, C, places]."""
    turned = emit.op("Transpose", right, perm=[0, 2, 1])
    return emit.op("ReduceSum", emit.op("MatMul", left, turned), emit.ints(0), keepdims=0)


def _product_of_all(emit: Emitter, left: str, right: str, sizes: tuple[int, int]) -> str:
    """The same as one product."""
    rows = [
        emit.op("Reshape", emit.op("Transpose", tensor, perm=[1, 0, 2]), emit.ints(size, -1))
        for tensor, size in zip((left, right), sizes, strict=True)
    ]
    return emit.op("Gemm", *rows, transB=1)
