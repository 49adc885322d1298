"""Slice and Pad: parts of a tensor, and borders around it.

Both along constant places. The axis that holds the batch must be left whole.
"""

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Array, Emitter, Node, Shape
from coordinator.compiler.operators.along import spread
from coordinator.compiler.operators.registry import expansion, lowering, operator
from coordinator.compiler.operators.shape import constant

operator("Pad", note="all modes; constant pads")
operator("Slice", view=True, note="constant ends")


@expansion("Slice")
def plain_slice(emit: Emitter, node: Node) -> list[str]:
    """The same slice with every number written out, without the axes that it leaves whole."""
    places = _places(emit, node, emit.graph.shape(node.inputs[0]))
    if not places:
        return [node.inputs[0]]
    starts, ends, steps = [], [], []
    for index, step in places.values():
        starts.append(int(index[0]) if len(index) else 0)
        last = int(index[-1]) + (1 if step > 0 else -1) if len(index) else 0
        ends.append(last if last >= 0 else -len(index) * abs(step) - 1)
        steps.append(step)
    inputs = (emit.ints(*n) for n in (starts, ends, list(places), steps))
    return [emit.op("Slice", node.inputs[0], *inputs)]


def _places(emit: Emitter, node: Node, shape: Shape) -> dict[int, tuple[Array, int]]:
    """For each axis that is cut, the places that stay, in their order, and the step."""
    starts = constant(emit.graph, node, 1, "starts") or []
    ends = constant(emit.graph, node, 2, "ends") or []
    axes = constant(emit.graph, node, 3, "axes") or list(range(len(starts)))
    steps = constant(emit.graph, node, 4, "steps") or [1] * len(starts)
    found = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis %= len(shape)
        length = shape[axis]
        if isinstance(length, str):
            if start == 0 and step == 1 and end >= np.iinfo(np.int32).max:
                continue
            raise CompileError(
                f"{emit.graph.where(node)} cuts the batch; every example must be computed by itself"
            )
        index = np.arange(length)[_slice(start, end, step)]
        if len(index) < length or step < 0:
            found[axis] = (index, step)
    return found


def _slice(start: int, end: int, step: int) -> slice:
    """ONNX's start and end as Python's: beyond the beginning, a negative end means none."""
    limit = np.iinfo(np.int32).max
    whole = step < 0 and end <= -limit
    return slice(start, None if whole else end, step)


@lowering("SliceGrad")
def slice_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX: dY at the places that the slice took, zero elsewhere."""
    dx = node.inputs[0]
    whole = emit.graph.shape(forward.inputs[0])
    for axis, (index, _) in _places(emit, forward, whole).items():
        dx = spread(emit, dx, whole, axis, index)
    return [dx]


@expansion("Pad")
def plain_pad(emit: Emitter, node: Node) -> list[str]:
    """A constant border as it is; a reflected or repeated one gathered axis by axis."""
    x = node.inputs[0]
    shape = emit.graph.shape(x)
    mode = node.attributes.get("mode", "constant")
    pads = constant(emit.graph, node, 1, "pads") or []
    axes = [a % len(shape) for a in constant(emit.graph, node, 3, "axes") or range(len(shape))]
    around = {
        axis: (before, after)
        for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
        if before or after
    }
    if any(isinstance(shape[axis], str) for axis in around):
        raise CompileError(f"{emit.graph.where(node)} adds to the batch")
    if mode == "constant":
        return [_constant_pad(emit, node, shape, around)]
    for axis, (before, after) in around.items():
        length = shape[axis]
        assert isinstance(length, int)
        x = _padded(emit, node, x, axis, before, after, length)
    return [x]


def _constant_pad(
    emit: Emitter, node: Node, shape: Shape, around: dict[int, tuple[int, int]]
) -> str:
    x = node.inputs[0]
    for axis, (before, after) in around.items():
        if before < 0 or after < 0:
            start, end = max(-before, 0), int(shape[axis]) - max(-after, 0)
            x = emit.op("Slice", x, *(emit.ints(n) for n in (start, end, axis, 1)))
    # The gradient builder turns the signs of the pads and forgets the axes: all are written out.
    pairs = [around.get(axis, (0, 0)) for axis in range(len(shape))]
    pads = [max(n, 0) for pair in zip(*pairs, strict=True) for n in pair]
    if not any(pads):
        return x
    value = [node.input(2)] if node.input(2) else []
    return emit.op("Pad", x, emit.ints(*pads), *value)


def _padded(
    emit: Emitter, node: Node, x: str, axis: int, before: int, after: int, length: int
) -> str:
    """One axis with a border of its own elements, or (by negative pads) cut."""
    mode = node.attributes["mode"]
    index = np.pad(np.arange(length), (max(before, 0), max(after, 0)), mode)
    index = index[max(-before, 0) : len(index) - max(-after, 0)]
    return emit.op("Gather", x, emit.ints(*index), axis=axis)
