"""What elementwise operators and their gradients are built of."""

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import BOOL, FLOAT, Emitter, Node, Shape


def step(emit: Emitter, x: str, below: float, above: float, at: float = 0.0) -> str:
    """`above` where x > at, `below` elsewhere. Where is slow in ONNX Runtime 1.19: this is not."""
    mask = emit.op("Cast", emit.op("Greater", x, emit.const(at)), to=FLOAT)
    if (below, above) == (0.0, 1.0):
        return mask
    if above == 1.0 and 0 < below < 1:
        return emit.op("Max", mask, emit.const(below))
    scaled = mask if above - below == 1 else emit.op("Mul", mask, emit.const(above - below))
    return scaled if below == 0 else emit.op("Add", scaled, emit.const(below))


def not_zero(emit: Emitter, x: str) -> str:
    """1 where x is not 0, else 0."""
    return emit.op("Cast", emit.op("Cast", x, to=BOOL), to=FLOAT)


def or_infinity(emit: Emitter, x: str) -> str:
    """x, and infinity where x is 0: what is divided by it is then 0."""
    return emit.op("Where", emit.op("Cast", x, to=BOOL), x, emit.const(float("inf")))


def repeated(emit: Emitter, node: Node, one: Shape, other: Shape) -> list[int]:
    """The axes along which a tensor of shape `one` is repeated when it meets one of shape `other`.

    They count in the shape of the result. Raises `CompileError` if that cannot be told.
    """
    rank = max(len(one), len(other))
    a, b = ((1,) * (rank - len(shape)) + shape for shape in (one, other))
    for m, n in zip(a, b, strict=True):
        if m != n and 1 not in (m, n):
            raise CompileError(
                f"{emit.graph.where(node)} broadcasts an axis whose "
                "length is not known; export the model with every axis fixed but the batch"
            )
    return [i for i in range(rank) if a[i] == 1 and b[i] != 1]


def summed_to(emit: Emitter, node: Node, gradient: str, like: str) -> str:
    """A gradient of the node's output's shape, summed to the shape of its operand `like`."""
    shape, out = emit.graph.shape(like), emit.graph.shape(node.outputs[0])
    axes = repeated(emit, node, shape, out)
    extra = len(out) - len(shape)
    axes = sorted({*range(extra), *axes})
    if not axes:
        return gradient
    if extra and axes == list(range(extra)):
        return emit.op("ReduceSum", gradient, emit.ints(*axes), keepdims=0)
    total = emit.op("ReduceSum", gradient, emit.ints(*axes), keepdims=1)
    return emit.op("Squeeze", total, emit.ints(*range(extra))) if extra else total
