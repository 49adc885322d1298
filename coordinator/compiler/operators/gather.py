"""Gather and its kin: elements by their index; embeddings.

Y is X at the indices. The gradient adds each dY to where it came from.
"""

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.along import spread, target
from coordinator.compiler.operators.registry import expansion, lowering, operator
from coordinator.compiler.operators.shape import axis_of

operator("Gather", weights=(0,), note="an index that varies: only into a table")
operator("GatherElements")
operator("GatherND", weights=(0,), note="into a table, or in each example: `batch_dims = 1`")


@expansion("Gather")
def within(emit: Emitter, node: Node) -> list[str]:
    """As it is, with constant indices counted from the front; never along the batch."""
    graph = emit.graph
    x, index = node.inputs
    axis = axis_of(graph, node)
    length = graph.shape(x)[axis]
    if isinstance(length, str):
        raise CompileError(
            f"{graph.where(node)} picks examples of the batch; every example must "
            "be computed by itself"
        )
    value = graph.constants.get(index)
    if value is not None:
        if value.size and not (-length <= value.min() and value.max() < length):
            raise CompileError(
                f"{graph.where(node)} has the index {value.min()} or "
                f"{value.max()} on an axis of length {length}"
            )
        index = emit.const(np.where(value < 0, value + length, value), np.int64)
    return [emit.op("Gather", x, index, axis=axis)]


@lowering("GatherGrad")
def gather_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX: each dY added where it was taken."""
    _, index, dy = node.inputs
    graph = emit.graph
    shape = graph.shape(forward.inputs[0])
    axis = axis_of(graph, forward)
    value = graph.constants.get(forward.inputs[1])
    if value is not None:
        if value.ndim != 1:
            flat = (*shape[:axis], value.size, *shape[axis + 1 :])
            dy = emit.op("Reshape", dy, emit.ints(*target(flat)))
        return [spread(emit, dy, shape, axis, value.ravel())]
    return [_by_rows(emit, dy, index, forward, axis)]


def _by_rows(emit: Emitter, dy: str, index: str, forward: Node, axis: int) -> str:
    """The embedding's gradient: rows of dY added to rows of a table of zeros."""
    shape = emit.graph.shape(forward.inputs[0])
    among = len(emit.graph.shape(index))
    rank = len(shape)
    dx_of = [shape[axis], *shape[:axis], *shape[axis + 1 :]]
    if any(isinstance(n, str) for n in dx_of):
        raise CompileError(
            f"{emit.graph.where(forward)} has an index that varies on a tensor "
            "with a batch; GatherElements does that for each example"
        )
    if axis:
        middle = range(axis, axis + among)
        rest = [i for i in range(rank - 1 + among) if i not in middle]
        dy = emit.op("Transpose", dy, perm=[*middle, *rest])
    zeros = emit.op("ConstantOfShape", emit.ints(*(int(n) for n in dx_of)), value=_ZERO)
    places = emit.op("Unsqueeze", index, emit.ints(-1))
    dx = emit.op("ScatterND", zeros, places, dy, reduction="add")
    if axis:
        dx = emit.op("Transpose", dx, perm=[*range(1, axis + 1), 0, *range(axis + 1, rank)])
    return dx


_ZERO = np.zeros(1, np.float32)


@lowering("GatherElementsGrad")
def gather_elements_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX: each dY added where it was taken."""
    dy, shape, index = node.inputs
    zeros = emit.op("ConstantOfShape", shape, value=_ZERO)
    axis = int(forward.attributes.get("axis", 0))
    return [emit.op("ScatterElements", zeros, index, dy, axis=axis, reduction="add")]


@expansion("GatherND")
def whole_index(emit: Emitter, node: Node) -> list[str] | None:
    """The same without batch axes: the place in them is put in front of each index."""
    batched = int(node.attributes.get("batch_dims", 0))
    x, index = node.inputs
    if not batched:
        if isinstance(emit.graph.shape(x)[0], str):
            raise CompileError(
                f"{emit.graph.where(node)} picks examples of the batch; with "
                "batch_dims = 1 it picks within each"
            )
        return None
    rank = len(emit.graph.shape(index))
    lengths = emit.op("Shape", index, start=0, end=rank - 1)
    one = emit.op("Concat", lengths, emit.ints(1), axis=0)
    parts = []
    for axis in range(batched):
        count = emit.op("Squeeze", emit.op("Shape", index, start=axis, end=axis + 1), emit.ints(0))
        steps = emit.op("Range", emit.const(0, np.int64), count, emit.const(1, np.int64))
        along = [-1 if i == axis else 1 for i in range(rank)]
        parts.append(emit.op("Expand", emit.op("Reshape", steps, emit.ints(*along)), one))
    return [emit.op("GatherND", x, emit.op("Concat", *parts, index, axis=-1))]


@lowering("GatherNDGrad")
def gather_nd_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX: each dY added where it was taken."""
    shape, index, dy = node.inputs
    zeros = emit.op("ConstantOfShape", shape, value=_ZERO)
    return [emit.op("ScatterND", zeros, index, dy, reduction="add")]
