"""The gradient of a convolution's weights, tap by tap: a tap is one element of the window.

What a tap saw of the image, at all places of the window, is a slice of it. As a convolution of the
image by the gradient, the whole would have a window as large as the image and a result as small as
the weights: ONNX Runtime takes up to ten times as long for it.

`image` is [N, C, *size], `values` [N, O, *out]: the gradient at each place of the windows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

from coordinator.compiler.graph import Emitter
from coordinator.compiler.operators.windows import Windows

TAPS = 32
"""Elements of a window, at most: each costs a few nodes."""

_WIDE = 32  # columns of a matrix product, at least: it takes as long for fewer


@dataclass(frozen=True)
class Seen:
    """What each tap of the windows sees of an image."""

    emit: Emitter
    image: str
    windows: Windows
    size: tuple[int, ...]
    out: tuple[int, ...]

    def parts(self) -> Iterator[str]:
        """For each tap a tensor [N, C, *out]."""
        windows, emit, rank = self.windows, self.emit, self.windows.rank
        image = self._padded()
        axes, strides = emit.ints(*range(2, rank + 2)), emit.ints(*windows.strides)
        for tap in product(*(range(k) for k in windows.kernel)):
            starts = [t * d for t, d in zip(tap, windows.dilations, strict=True)]
            ends = [
                a + (o - 1) * s + 1 for a, o, s in zip(starts, self.out, windows.strides, strict=True)
            ]
            if self.out == self.size and image == self.image and not any(starts):
                yield image
            else:
                yield emit.op("Slice", image, emit.ints(*starts), emit.ints(*ends), axes, strides)

    def _padded(self) -> str:
        before, covered = self.windows.before, self.windows.covered(self.out)
        after = [max(c - n - b, 0) for c, n, b in zip(covered, self.size, before, strict=True)]
        if not any(before) and not any(after):
            return self.image
        return self.emit.op("Pad", self.image, self.emit.ints(0, 0, *before, 0, 0, *after))


def depthwise(seen: Seen, values: str) -> str:
    """dW [C, 1, ...] where each channel has a window of its own: the sums of products."""
    emit, rank = seen.emit, seen.windows.rank
    places = emit.ints(0, *range(2, rank + 2))
    parts = [
        emit.op("ReduceSum", emit.op("Mul", part, values), places, keepdims=1)
        for part in seen.parts()
    ]
    dw = emit.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
    swapped = emit.op("Transpose", dw, perm=[1, 0, *range(2, rank + 2)])
    return emit.op("Reshape", swapped, emit.ints(-1, 1, *seen.windows.kernel))


def dense(seen: Seen, values: str, channels: tuple[int, int]) -> str:
    """dW [O, C, ...] where each output sees all channels: matrix products of `values` and of what
    the taps see, of so many taps at once as make it wide. `channels` are O and C."""
    emit = seen.emit
    n_out, n_in = channels
    kernel, places = seen.windows.kernel, prod(seen.out)
    each = -(-_WIDE // n_in)
    parts, products = list(seen.parts()), []
    # A product for each example is the faster, unless its result is larger than what it is of.
    of_all = n_out * n_in * each > 2 * (n_out + n_in * each) * places
    left = _by_channel(seen, values, n_out) if of_all else _by_example(seen, values, n_out)
    for start in range(0, len(parts), each):
        group = parts[start : start + each]
        image = emit.op("Concat", *group, axis=1) if len(group) > 1 else group[0]
        wide = n_in * len(group)
        if of_all:
            right = _by_channel(seen, image, wide)
            products.append(emit.op("Gemm", left, right, transB=1))
        else:
            right = emit.op("Transpose", _by_example(seen, image, wide), perm=[0, 2, 1])
            whole = emit.op("MatMul", left, right)
            products.append(emit.op("ReduceSum", whole, emit.ints(0), keepdims=0))
    dw = emit.op("Concat", *products, axis=1) if len(products) > 1 else products[0]
    if len(parts) > 1:
        dw = emit.op("Reshape", dw, emit.ints(n_out, len(parts), n_in))
        dw = emit.op("Transpose", dw, perm=[0, 2, 1])
    return emit.op("Reshape", dw, emit.ints(n_out, n_in, *kernel))


def _by_example(seen: Seen, tensor: str, channels: int) -> str:
    """[N, channels, places]."""
    return seen.emit.op("Reshape", tensor, seen.emit.ints(-1, channels, prod(seen.out)))


def _by_channel(seen: Seen, tensor: str, channels: int) -> str:
    """[channels, N places]."""
    swap = [1, 0, *range(2, seen.windows.rank + 2)]
    swapped = seen.emit.op("Transpose", tensor, perm=swap)
    return seen.emit.op("Reshape", swapped, seen.emit.ints(channels, -1))
