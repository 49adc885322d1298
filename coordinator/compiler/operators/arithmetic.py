"""Elementwise arithmetic with broadcasting."""

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import FLOAT, Emitter, Node
from coordinator.compiler.operators.registry import lowering, operator

operator("Add", weights=(0, 1))
operator("Sub")
operator("Mul")


@lowering("Scale")
def scale(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """Y = X * scale, or X / scale if `scale_down`; the scale is a scalar of any type."""
    x, factor = node.inputs
    as_float = emit.op("Cast", factor, to=FLOAT)
    return [emit.op("Div" if node.attributes.get("scale_down") else "Mul", x, as_float)]


@lowering("BroadcastGradientArgs")
def broadcast_gradient_args(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """The axes along which each operand of a broadcast was repeated, to be summed over."""
    shapes = [emit.graph.shape(name) for name in forward.inputs[:2]]
    rank = max(len(shape) for shape in shapes)
    a, b = ((1,) * (rank - len(shape)) + shape for shape in shapes)
    for m, n in zip(a, b, strict=True):
        if m != n and 1 not in (m, n):
            raise CompileError(
                f"{forward.op} ({emit.graph.label(forward.origin)}) broadcasts an axis whose "
                "length is not known; export the model with every axis fixed but the batch"
            )
    axes = [
        [i for i in range(rank) if one[i] == 1 and two[i] != 1] for one, two in ((a, b), (b, a))
    ]
    return [
        emit.ints(*found) if wanted else ""
        for found, wanted in zip(axes, node.outputs, strict=False)
    ]
