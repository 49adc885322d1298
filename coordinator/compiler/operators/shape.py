"""Operators that only rearrange.

Most of their gradients are standard operators; the others are written otherwise before.
"""

from collections.abc import Sequence

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, Graph, Node
from coordinator.compiler.operators.along import target
from coordinator.compiler.operators.registry import expansion, inference, lowering, operator

operator("Concat")
operator("DepthToSpace", view=True)
operator("Expand", view=True)
operator("Flatten", view=True)
operator("Identity", view=True)
operator("Reshape", view=True)
operator("SpaceToDepth", view=True)
operator("Split", view=True, note="constant lengths")
operator("Squeeze", view=True)
operator("Tile", view=True, note="constant repeats")
operator("Transpose", view=True)
operator("Trilu", view=True)
operator("Unsqueeze", view=True)


def constant(graph: Graph, node: Node, place: int, what: str) -> list[int] | None:
    """An optional input that says how to rearrange, which must be constant; None if left out."""
    if not (given := node.input(place)):
        return None
    value = graph.constants.get(given)
    if value is None:
        raise CompileError(
            f"{graph.where(node)} computes its {what} from the examples or the "
            "batch's length; export the model with them constant"
        )
    return [int(n) for n in value.ravel()]


def axis_of(graph: Graph, node: Node, default: int = 0) -> int:
    """The node's axis, counted from the front."""
    axis = int(node.attributes.get("axis", default))
    return axis % len(graph.shape(node.inputs[0])) if axis < 0 else axis


@expansion("Concat")
def concat(emit: Emitter, node: Node) -> list[str] | None:
    """As it is, but never along the axis that holds the batch."""
    axis = axis_of(emit.graph, node)
    if any(isinstance(emit.graph.shape(name)[axis], str) for name in node.inputs):
        raise CompileError(
            f"{emit.graph.where(node)} joins along the batch; every example must "
            "be computed by itself"
        )
    return [emit.op("Concat", *node.inputs, axis=axis)]


@expansion("Split")
def split(emit: Emitter, node: Node) -> list[str]:
    """The same parts with their lengths written out; slices if some lead nowhere.

    The gradient builder joins the gradients of the parts, and forgets those that have none.
    """
    graph = emit.graph
    x = node.inputs[0]
    axis = axis_of(graph, node)
    (length,) = graph.fixed(x, slice(axis, axis + 1))
    lengths = constant(graph, node, 1, "parts") or _parts(length, len(node.outputs))
    if all(node.outputs):
        return list(emit.ops("Split", (x, emit.ints(*lengths)), len(lengths), axis=axis))
    starts = np.concatenate(([0], np.cumsum(lengths)))
    return [
        emit.op("Slice", x, emit.ints(int(a)), emit.ints(int(b)), emit.ints(axis)) if name else ""
        for a, b, name in zip(starts, starts[1:], node.outputs, strict=False)
    ]


@inference("Split")
def without_gaps(emit: Emitter, node: Node) -> Sequence[str] | None:
    """Slices where some parts lead nowhere: ONNX Runtime crashes on a part that has no name."""
    return None if all(node.outputs) else split(emit, node)


def _parts(length: int, count: int) -> list[int]:
    """Equal parts, the last one shorter if need be."""
    each = -(-length // count)
    return [min(each, length - i * each) for i in range(count)]


@expansion("Tile")
def tile(emit: Emitter, node: Node) -> list[str]:
    """[.., n, ..] to [.., 1, n, ..], expanded to [.., r, n, ..] and flattened."""
    shape = emit.graph.shape(node.inputs[0])
    repeats = constant(emit.graph, node, 1, "repeats") or []
    made: list[int | str] = []
    for n, r in zip(shape, repeats, strict=True):
        if isinstance(n, str) and r != 1:
            raise CompileError(f"{emit.graph.where(node)} repeats the batch")
        made.append(n if isinstance(n, str) else n * r)
    if all(r == 1 for r in repeats):
        return [node.inputs[0]]
    narrow = [m for n in target(shape) for m in (1, n)]
    wide = [m for r in repeats for m in (r, 1)]
    cells = emit.op("Reshape", node.inputs[0], emit.ints(*narrow))
    return [
        emit.op(
            "Reshape", emit.op("Expand", cells, emit.ints(*wide)), emit.ints(*target(tuple(made)))
        )
    ]


@expansion("DepthToSpace")
def depth_to_space(emit: Emitter, node: Node) -> list[str]:
    """Channels to blocks of pixels, as the operator's definition spells it out."""
    c, h, w = emit.graph.fixed(node.inputs[0])
    b = int(node.attributes["blocksize"])
    if node.attributes.get("mode", "DCR") == "DCR":
        cells, order = (-1, b, b, c // b**2, h, w), [0, 3, 4, 1, 5, 2]
    else:
        cells, order = (-1, c // b**2, b, b, h, w), [0, 1, 4, 2, 5, 3]
    return [_rearranged(emit, node.inputs[0], cells, order, (-1, c // b**2, h * b, w * b))]


@expansion("SpaceToDepth")
def space_to_depth(emit: Emitter, node: Node) -> list[str]:
    """Blocks of pixels to channels."""
    c, h, w = emit.graph.fixed(node.inputs[0])
    b = int(node.attributes["blocksize"])
    cells = (-1, c, h // b, b, w // b, b)
    made = (-1, c * b**2, h // b, w // b)
    return [_rearranged(emit, node.inputs[0], cells, [0, 3, 5, 1, 2, 4], made)]


def _rearranged(
    emit: Emitter, x: str, cells: tuple[int, ...], order: list[int], made: tuple[int, ...]
) -> str:
    moved = emit.op("Transpose", emit.op("Reshape", x, emit.ints(*cells)), perm=order)
    return emit.op("Reshape", moved, emit.ints(*made))


@lowering("Trilu")
def trilu(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """The same triangle of dY. The forward operator comes here too: it has the same name."""
    return [emit.op("Trilu", node.inputs[0], *forward.inputs[1:], **forward.attributes)]
