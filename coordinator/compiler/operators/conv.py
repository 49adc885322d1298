"""Convolution.

X is [N, C, ...], W [O, C / group, ...], Y [N, O, ...]. Formulas: Dumoulin and Visin, 2016, "A
guide to convolution arithmetic for deep learning".
"""

import math
from typing import NamedTuple

from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators import taps
from coordinator.compiler.operators.registry import expansion, lowering, operator
from coordinator.compiler.operators.windows import (
    Windows,
    spatial,
    windows_of,
    with_explicit_pads,
)

operator("Conv", weights=(1, 2), note="one to three spatial axes, of fixed lengths")

_BEYOND = -(1 << 31)  # where a Slice ends that goes backwards to the first element


@expansion("Conv")
def explicit(emit: Emitter, node: Node) -> list[str]:
    """The same convolution with its kernel, strides, dilations and pads written out."""
    spatial(emit.graph, node.inputs[0], node)
    kernel = emit.graph.fixed(node.inputs[1], slice(2, None))
    windows = windows_of(emit.graph, node, kernel)
    return [emit.op("Conv", *node.inputs, **with_explicit_pads(node, windows))]


@lowering("ConvGrad")
def conv_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """The gradients by X, W and the bias, those that are wanted."""
    dy = node.inputs[0]
    wanted = [bool(name) for name in (*node.outputs, "", "")[:3]]
    windows = windows_of(emit.graph, forward)
    dx = _dx(emit, forward, windows, dy) if wanted[0] else ""
    dw = _dw(emit, forward, windows, dy) if wanted[1] else ""
    db = ""
    if wanted[2]:
        axes = emit.ints(0, *range(2, windows.rank + 2))
        db = emit.op("ReduceSum", dy, axes, keepdims=0)
    return [dx, dw, db][: len(node.outputs)]


def _dx(emit: Emitter, forward: Node, windows: Windows, dy: str) -> str:
    """dX: the transposed convolution of dY by W."""
    x, w = forward.inputs[:2]
    size = spatial(emit.graph, x, forward)
    out = spatial(emit.graph, forward.outputs[0], forward)
    if (plain := _plain_dx(emit, forward, windows, dy)) is not None:
        return plain
    return emit.op(
        "ConvTranspose",
        dy,
        w,
        group=forward.attributes.get("group", 1),
        **windows.attributes,
        output_padding=windows.left_over(size, out),
    )


def _plain_dx(emit: Emitter, forward: Node, windows: Windows, dy: str) -> str | None:
    """dX as a plain convolution, by W turned round, where that is the faster: of 1x1 or depthwise
    windows that miss no place. None elsewhere."""
    w, group = forward.inputs[1], int(forward.attributes.get("group", 1))
    point = group == 1 and math.prod(windows.kernel) == 1
    depthwise = emit.graph.fixed(w, slice(0, 2)) == (group, 1)
    before = [e - 1 - b for e, b in zip(windows.extent, windows.before, strict=True)]
    after = [e - 1 - a for e, a in zip(windows.extent, windows.after, strict=True)]
    if not (point or depthwise) or any(s > 1 for s in windows.strides) or min(before + after) < 0:
        return None
    rank = windows.rank
    if point:
        w = emit.op("Transpose", w, perm=[1, 0, *range(2, rank + 2)])
    else:
        last, beyond, back = [-1] * rank, [_BEYOND] * rank, [-1] * rank
        axes = emit.ints(*range(2, rank + 2))
        w = emit.op("Slice", w, emit.ints(*last), emit.ints(*beyond), axes, emit.ints(*back))
    return emit.op(
        "Conv",
        dy,
        w,
        group=group,
        kernel_shape=list(windows.kernel),
        strides=[1] * rank,
        dilations=list(windows.dilations),
        pads=[*before, *after],
    )


def _dw(emit: Emitter, forward: Node, windows: Windows, dy: str) -> str:
    """dW of a convolution."""
    x, w = forward.inputs[:2]
    return weight_gradient(emit, forward, windows, Slid(x, forward.outputs[0], w, (x, dy)))


class Slid(NamedTuple):
    """Two tensors of which one slid over the other, and the weights between them.

    `image` [N, C, ...] is the large one and `out` [N, O, ...] has one element for each place of
    the windows; `weight` is [O, C / group, ...]. They stand for shapes: what is convolved are
    `values`, tensors like `image` and `out`.
    """

    image: str
    out: str
    weight: str
    values: tuple[str, str]


def weight_gradient(emit: Emitter, forward: Node, windows: Windows, slid: Slid) -> str:
    """dW: tap by tap for small windows (`taps.py`); otherwise the convolution of X by dY, batch and
    channels swapped, strides and dilations too.

    With groups, the channels of X within a group take the batch's place and the batch joins the
    groups: [N, G C', ...] to [C', G N, ...], so that it remains one convolution of G groups.
    """
    graph, rank = emit.graph, windows.rank
    group = int(forward.attributes.get("group", 1))
    size, out = graph.fixed(slid.image, slice(2, None)), graph.fixed(slid.out, slice(2, None))
    if math.prod(windows.kernel) <= taps.TAPS:
        channels = graph.fixed(slid.weight, slice(0, 2))
        seen = taps.Seen(emit, *slid.values, windows, size, out)
        if group == 1:
            return taps.dense(seen, (channels[0], channels[1]))
        if channels == (group, 1):
            return taps.depthwise(seen)
    swap = [1, 0, *range(2, rank + 2)]
    image, kernel = (emit.op("Transpose", value, perm=swap) for value in slid.values)
    if group > 1:
        per_group = graph.fixed(slid.weight, slice(1, 2))[0]
        image = emit.op("Reshape", image, emit.ints(group, per_group, -1, *size))
        image = emit.op("Transpose", image, perm=[1, 0, *range(2, rank + 3)])
        image = emit.op("Reshape", image, emit.ints(per_group, -1, *size))
    # Pads after that make the result exactly as large as W; where the windows did not reach the
    # end of X, the result is too large instead and is cut.
    after = [c - n - b for c, n, b in zip(windows.covered(out), size, windows.before, strict=True)]
    dw = emit.op(
        "Conv",
        image,
        kernel,
        group=group,
        strides=list(windows.dilations),
        dilations=list(windows.strides),
        pads=[*windows.before, *(max(a, 0) for a in after)],
    )
    if any(a < 0 for a in after):
        dw = emit.op(
            "Slice",
            dw,
            emit.ints(*[0] * rank),
            emit.ints(*windows.kernel),
            emit.ints(*range(2, rank + 2)),
        )
    return emit.op("Transpose", dw, perm=swap)
