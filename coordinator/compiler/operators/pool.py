"""Pooling: X is [N, C, ...], Y [N, C, ...] with smaller spatial axes."""

import math

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import FLOAT, Array, Emitter, Node
from coordinator.compiler.operators.registry import expansion, lowering, operator
from coordinator.compiler.operators.windows import (
    Windows,
    spatial,
    windows_of,
    with_explicit_pads,
)

operator("AveragePool", note="one to three spatial axes, of fixed lengths")
operator("GlobalAveragePool")
operator("GlobalLpPool")
operator("GlobalMaxPool")
operator("LpPool", note="one to three spatial axes, of fixed lengths")
operator(
    "MaxPool",
    note="one to three spatial axes, of fixed lengths; without its second output, the indices",
)


@expansion("MaxPool")
def explicit_max(emit: Emitter, node: Node) -> list[str]:
    """The same pooling with its windows written out. Its indices must be free for the gradient."""
    if node.output(1):
        raise CompileError(
            f"{emit.graph.where(node)} with its second output, the indices, "
            "is not supported; export the model without it"
        )
    spatial(emit.graph, node.inputs[0], node)
    windows = windows_of(emit.graph, node)
    attributes = with_explicit_pads(node, windows)
    attributes.pop("storage_order", None)
    return [emit.op("MaxPool", *node.inputs, **attributes)]


@expansion("AveragePool")
def explicit_average(emit: Emitter, node: Node) -> list[str]:
    """The same pooling with its windows written out."""
    x = node.inputs[0]
    spatial(emit.graph, x, node)
    windows = windows_of(emit.graph, node)
    counted = bool(node.attributes.get("count_include_pad", 0))
    return [_average(emit, x, windows, counted)]


def _average(emit: Emitter, x: str, windows: Windows, counted: bool) -> str:
    """The mean of every window; `counted`: pads are zeros like others."""
    before, after = windows.before, windows.after
    attributes: dict[str, object] = {
        "kernel_shape": list(windows.kernel),
        "strides": list(windows.strides),
        "pads": [*before, *after],
        "count_include_pad": int(counted),
    }
    if any(d > 1 for d in windows.dilations):
        attributes["dilations"] = list(windows.dilations)
    return emit.op("AveragePool", x, **attributes)


@expansion("LpPool")
def lp_pool(emit: Emitter, node: Node) -> list[str]:
    """(sum |x|^p)^(1/p) over each window."""
    x = node.inputs[0]
    spatial(emit.graph, x, node)
    windows = windows_of(emit.graph, node)
    p = int(node.attributes.get("p", 2))
    mean = _average(emit, _power(emit, x, p), windows, counted=True)
    return [_root(emit, emit.op("Mul", mean, emit.const(math.prod(windows.kernel))), p)]


@expansion("GlobalLpPool")
def global_lp_pool(emit: Emitter, node: Node) -> list[str]:
    """(sum |x|^p)^(1/p) over all places."""
    rank = len(emit.graph.shape(node.inputs[0]))
    p = int(node.attributes.get("p", 2))
    powers = _power(emit, node.inputs[0], p)
    return [_root(emit, emit.op("ReduceSum", powers, emit.ints(*range(2, rank)), keepdims=1), p)]


def _power(emit: Emitter, x: str, p: int) -> str:
    if p == 2:
        return emit.op("Mul", x, x)
    size = emit.op("Abs", x)
    return size if p == 1 else emit.op("Pow", size, emit.const(float(p)))


def _root(emit: Emitter, total: str, p: int) -> str:
    """The p-th root; where the sum is zero its gradient is taken as zero, not as infinite."""
    if p == 1:
        return total
    positive = emit.op("Greater", total, emit.const(0.0))
    safe = emit.op("Where", positive, total, emit.const(1.0))
    root = emit.op("Sqrt", safe) if p == 2 else emit.op("Pow", safe, emit.const(1 / p))
    return emit.op("Mul", root, emit.op("Cast", positive, to=FLOAT))


@expansion("GlobalMaxPool")
def global_max_pool(emit: Emitter, node: Node) -> list[str]:
    """The maximum of one window that is as large as X."""
    size = list(spatial(emit.graph, node.inputs[0], node))
    return [emit.op("MaxPool", node.inputs[0], kernel_shape=size, strides=size)]


@lowering("MaxPoolGrad")
def max_pool_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX: each dY added where its window's maximum was.

    The indices count through the whole of X. MaxUnpool is the faster, but knows only windows that
    neither overlap nor leave anything over.
    """
    dy, indices = node.inputs
    windows = windows_of(emit.graph, forward)
    x = forward.inputs[0]
    size = spatial(emit.graph, x, forward)
    if _tiles(windows, size, spatial(emit.graph, forward.outputs[0], forward)):
        kernel, strides = list(windows.kernel), list(windows.strides)
        # A window of nothing but NaN has its maximum at a place below 0, which MaxUnpool refuses.
        indices = emit.op("Max", indices, emit.const(0, np.int64))
        return [emit.op("MaxUnpool", dy, indices, kernel_shape=kernel, strides=strides)]
    (channels,) = emit.graph.fixed(x, slice(1, 2))
    flat = emit.ints(-1)
    length = emit.op("Reshape", emit.op("Size", x), flat)
    zeros = emit.op("ConstantOfShape", length, value=np.zeros(1, np.float32))
    dx = emit.op(
        "ScatterElements",
        zeros,
        emit.op("Reshape", indices, flat),
        emit.op("Reshape", dy, flat),
        axis=0,
        reduction="add",
    )
    return [emit.op("Reshape", dx, emit.ints(-1, channels, *size))]


@lowering("AveragePoolGrad")
def average_pool_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX: each dY / (elements of its window) spread over its window."""
    (dy,) = node.inputs
    graph = emit.graph
    windows = windows_of(graph, forward)
    x = forward.inputs[0]
    (channels,) = graph.fixed(x, slice(1, 2))
    size, out = spatial(graph, x, forward), spatial(graph, forward.outputs[0], forward)
    count = _elements(windows, size, out, bool(forward.attributes.get("count_include_pad", 0)))
    share = emit.op("Mul", dy, emit.const(1.0 / count))
    if _tiles(windows, size, out):
        # [N, C, h, w] to [N, C, h, 1, w, 1], repeated to [N, C, h, k, w, k].
        narrow = [n for o in out for n in (o, 1)]
        wide = [n for k in windows.kernel for n in (1, k)]
        cells = emit.op("Reshape", share, emit.ints(-1, channels, *narrow))
        spread = emit.op("Expand", cells, emit.ints(1, 1, *wide))
        return [emit.op("Reshape", spread, emit.ints(-1, channels, *size))]
    planes = emit.op("Reshape", share, emit.ints(-1, 1, *out))
    spread = emit.op(
        "ConvTranspose",
        planes,
        emit.const(np.ones((1, 1, *windows.kernel))),
        **windows.attributes,
        output_padding=windows.left_over(size, out),
    )
    return [emit.op("Reshape", spread, emit.ints(-1, channels, *size))]


def _tiles(windows: Windows, size: tuple[int, ...], out: tuple[int, ...]) -> bool:
    """Whether the windows lie side by side and cover X exactly."""
    return (
        windows.kernel == windows.strides
        and not any(windows.pads)
        and all(d == 1 for d in windows.dilations)
        and windows.covered(out) == size
    )


def _elements(
    windows: Windows, size: tuple[int, ...], out: tuple[int, ...], with_pads: bool
) -> Array:
    """How many elements each window averages, of the shape [1, 1, *out]."""
    count = np.ones((1, 1, *out), np.float32)
    for axis, (o, n, k) in enumerate(zip(out, size, windows.kernel, strict=True)):
        starts = np.arange(o) * windows.strides[axis] - windows.before[axis]
        places = starts[:, None] + np.arange(k) * windows.dilations[axis]
        inside = np.full(o, k) if with_pads else ((places >= 0) & (places < n)).sum(axis=1)
        along = [1] * count.ndim
        along[axis + 2] = o
        count *= inside.reshape(along).astype(np.float32)
    return count
