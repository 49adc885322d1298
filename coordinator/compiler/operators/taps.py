"""The gradient of a convolution's weights, tap by tap: a tap is one element of the window.

What a tap saw of the image, at all places of the window, is a slice of it. As a convolution of the
image by the gradient, the whole would have a window as large as the image and a result as small as
the weights: ONNX Runtime takes up to ten times as long for it.
"""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from coordinator.compiler.graph import Emitter
from coordinator.compiler.operators.windows import Windows

TAPS = 32
"""Elements of a window, at most: each costs a few nodes."""

_WIDE = 32  # columns of a matrix product, at least: it takes as long for fewer

_NARROW = 64  # columns of an image, at most, from which a matrix product picks some


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
        image, values = self.padded(), self._line(self.values)
        return [Part(self._line(self.slice(image, at)), values) for at in self.starts()]

    def shifts(self) -> list[Part]:
        """The same in less time, but of values that vary: not each tap has the same.

        All places are one line, and a tap is a shift along it: [N, C, places] is copied whole,
        where a slice of an image is copied row by row. A shift brings the end of a row to the
        beginning of the next; there the values are made 0.
        """
        if self.size != self.out or set(self.windows.strides) != {1} or self.windows.rank == 1:
            return self.parts()
        emit, count = self.emit, prod(self.out)
        unit = [prod(self.out[i + 1 :]) for i in range(self.windows.rank)]
        moves = [
            tuple(a - b for a, b in zip(at, self.windows.before, strict=True))
            for at in self.starts()
        ]
        by = [sum(m * u for m, u in zip(move, unit, strict=True)) for move in moves]
        before, after = max(0, -min(by)), max(0, *by)
        line, values = self._line(self.image), self._line(self.values)
        if before or after:
            line = emit.op("Pad", line, emit.ints(0, 0, before, 0, 0, after))
        kept = {key: self._kept(key, values) for key in dict.fromkeys(m[1:] for m in moves)}
        made = []
        for move, n in zip(moves, by, strict=True):
            ends = emit.ints(before + n), emit.ints(before + n + count)
            one = emit.op("Slice", line, *ends, emit.ints(2)) if before or after else line
            made.append(Part(one, kept[move[1:]]))
        return made

    def _kept(self, move: tuple[int, ...], values: str) -> str:
        """The values from where a move along all axes but the first stays in its row (and plane),
        elsewhere 0. Beyond the first axis are the pads of the line."""
        inside = np.ones(self.out, bool)
        for axis, m in enumerate(move, start=1):
            to = np.arange(self.out[axis]) + m
            along = [-1 if i == axis else 1 for i in range(len(self.out))]
            inside &= ((to >= 0) & (to < self.out[axis])).reshape(along)
        if inside.all():
            return values
        return self.emit.op("Mul", values, self.emit.const(inside.ravel()))

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

    def _line(self, tensor: str) -> str:
        """[N, C, *out] as [N, C, places]."""
        if self.windows.rank == 1:
            return tensor
        return self.emit.op("Reshape", tensor, self.emit.ints(0, 0, prod(self.out)))


def depthwise(seen: Seen) -> str:
    """dW [C, 1, ...] where each channel has a window of its own: the sums of products."""
    if seen.windows.rank > 1 and seen.windows.strides[-1] > 1 and seen.size[-1] <= _NARROW:
        return _depthwise_by_rows(seen)
    emit, parts = seen.emit, seen.shifts()
    places = emit.ints(0, 2)
    sums = [
        emit.op("ReduceSum", emit.op("Mul", part.image, part.values), places, keepdims=1)
        for part in parts
    ]
    dw = emit.op("Concat", *sums, axis=2) if len(sums) > 1 else sums[0]
    return emit.op("Reshape", dw, emit.ints(-1, 1, *seen.windows.kernel))


def _depthwise_by_rows(seen: Seen) -> str:
    """The same for windows with strides along rows: slices of every other element are slow.

    One matrix product picks, from each row, what each column of the window sees of it; a slice is
    then of whole rows. All columns' sums are one.
    """
    emit, windows, rank = seen.emit, seen.windows, seen.windows.rank
    k, stride, dilation = windows.kernel[-1], windows.strides[-1], windows.dilations[-1]
    width = seen.out[-1]
    sees = np.add.outer(np.arange(k) * dilation, np.arange(width) * stride) - windows.before[-1]
    picked = np.arange(seen.size[-1])[:, None] == sees.ravel()
    rows = Seen(
        emit,
        emit.op("MatMul", seen.image, emit.const(picked)),
        emit.op("MatMul", seen.values, emit.const(np.tile(np.eye(width), k))),
        Windows(
            (*windows.kernel[:-1], 1),
            (*windows.strides[:-1], 1),
            (*windows.dilations[:-1], 1),
            (*windows.before[:-1], 0),
            (*windows.after[:-1], 0),
        ),
        (*seen.size[:-1], k * width),
        (*seen.out[:-1], k * width),
    )
    image, others = rows.padded(), emit.ints(0, *range(2, rank + 1))
    sums = [
        emit.op("ReduceSum", emit.op("Mul", rows.slice(image, at), rows.values), others, keepdims=0)
        for at in rows.starts()
    ]
    whole = emit.op("Concat", *sums, axis=1) if len(sums) > 1 else sums[0]
    taps = emit.op("Reshape", whole, emit.ints(-1, len(sums) * k, width))
    dw = emit.op("ReduceSum", taps, emit.ints(2), keepdims=0)
    return emit.op("Reshape", dw, emit.ints(-1, 1, *windows.kernel))


def dense(seen: Seen, channels: tuple[int, int]) -> str:
    """dW [O, C, ...] where each output sees all channels: matrix products of the values and of what
    the taps see, of so many taps at once as make it wide. `channels` are O and C."""
    emit, (n_out, n_in) = seen.emit, channels
    each = -(-_WIDE // n_in)
    parts = seen.shifts() if each == 1 else seen.parts()
    wide = n_in * min(each, len(parts))
    # A product for each example is the faster, unless its result is larger than what it is of.
    of_all = n_out * wide > 2 * (n_out + wide) * prod(seen.out)
    products = []
    for start in range(0, len(parts), each):
        group = parts[start : start + each]
        image = group[0].image
        if len(group) > 1:
            image = emit.op("Concat", *(part.image for part in group), axis=1)
        multiply = _product_of_all if of_all else _products_by_example
        products.append(multiply(emit, group[0].values, image, (n_out, n_in * len(group))))
    dw = emit.op("Concat", *products, axis=1) if len(products) > 1 else products[0]
    if len(parts) > 1:
        dw = emit.op("Reshape", dw, emit.ints(n_out, len(parts), n_in))
        dw = emit.op("Transpose", dw, perm=[0, 2, 1])
    return emit.op("Reshape", dw, emit.ints(n_out, n_in, *seen.windows.kernel))


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
