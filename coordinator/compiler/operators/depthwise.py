"""The gradient of depthwise weights: each channel has a window of its own.

A convolution would be one of the batch's size for each channel, with a window as large as the
image: ONNX Runtime takes two to four times as long for it.
"""

from itertools import product

from coordinator.compiler.graph import Emitter
from coordinator.compiler.operators.windows import Windows

TAPS = 32
"""Elements of a window, at most: each costs a few nodes."""


def weight_gradient(
    emit: Emitter,
    image: str,
    values: str,
    windows: Windows,
    size: tuple[int, ...],
    out: tuple[int, ...],
) -> str:
    """dW [C, 1, ...]: for each element of the window, what it saw of the image times `values`.

    `image` is [N, C, *size], `values` [N, C, *out].
    """
    rank = windows.rank
    after = [
        max(c - n - b, 0)
        for c, n, b in zip(windows.covered(out), size, windows.before, strict=True)
    ]
    if any(windows.before) or any(after):
        image = emit.op("Pad", image, emit.ints(0, 0, *windows.before, 0, 0, *after))
    axes, strides = emit.ints(*range(2, rank + 2)), emit.ints(*windows.strides)
    places = emit.ints(0, *range(2, rank + 2))
    parts = []
    for tap in product(*(range(k) for k in windows.kernel)):
        starts = [t * d for t, d in zip(tap, windows.dilations, strict=True)]
        ends = [a + (o - 1) * s + 1 for a, o, s in zip(starts, out, windows.strides, strict=True)]
        seen = emit.op("Slice", image, emit.ints(*starts), emit.ints(*ends), axes, strides)
        parts.append(emit.op("ReduceSum", emit.op("Mul", seen, values), places, keepdims=1))
    dw = emit.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
    swapped = emit.op("Transpose", dw, perm=[1, 0, *range(2, rank + 2)])
    return emit.op("Reshape", swapped, emit.ints(-1, 1, *windows.kernel))
