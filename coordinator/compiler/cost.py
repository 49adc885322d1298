"""What one run of a graph costs: floating-point operations by operator, bytes read and written.

Multiplications and additions count one each, so a product of [m, k] and [k, n] is 2 m k n. A
function such as Exp counts ten, as a vector library spends about so many instructions on it. Moving
data about counts no operations, only bytes; what merely gives a tensor another shape counts
nothing.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from coordinator.compiler.graph import Node
from coordinator.compiler.sizes import Sized

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators that the runtime answers without touching the data, where it can."""
_MOVES = frozenset({
    "Transpose", "Slice", "Concat", "Split", "Pad", "Expand", "Gather", "GatherElements",
    "GatherND", "Tile", "Shape", "Size", "Cast", "OneHot", "Constant", "ConstantOfShape", "Range",
    "Resize", "MaxUnpool", "DepthToSpace", "SpaceToDepth", "EyeLike", "Where", "NonZero",
})  # fmt: skip
_FUNCTIONS = frozenset({
    "Exp", "Log", "Tanh", "Sigmoid", "Erf", "Gelu", "Softplus", "Pow", "Mish", "Elu", "Selu",
    "Sin", "Cos", "Softmax", "LogSoftmax", "HardSwish", "Tan", "Atan", "Asin", "Acos", "Sinh",
    "Cosh",
})  # fmt: skip
_FUNCTION = 10
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool"})
_OVER_INPUT = frozenset({
    "ArgMax", "ArgMin", "CumSum", "GlobalAveragePool", "GlobalMaxPool", "TopK",
})  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Of one run. `by_operator` has the floating-point operations of each kind of node."""

    flops: int
    bytes: int
    nodes: int
    by_operator: dict[str, int] = field(default_factory=dict)


def cost(graph: Sized) -> Cost:
    """What one run costs. Tensors of unknown shape count nothing: see `Sized.unknown`."""
    by_operator: Counter[str] = Counter()
    moved = worked = 0
    for node in graph.nodes:
        by_operator[node.op] += flops(graph, node)
        moved += traffic(graph, node)
        worked += node.op not in VIEWS
    found = dict(by_operator.most_common())
    return Cost(sum(found.values()), moved, worked, found)


def flops(graph: Sized, node: Node) -> int:
    """Floating-point operations of one node."""
    if node.op in VIEWS or node.op in _MOVES:
        return 0
    made = sum(graph.count(name) for name in node.outputs if name)
    if node.op in ("MatMul", "Gemm"):
        return _product(graph, node, made)
    if node.op == "Conv":
        weight = graph.shape(node.inputs[1]) or (0,)
        return made * (2 * math.prod(weight[1:]) + (len(node.inputs) > 2))
    if node.op == "ConvTranspose":
        weight = graph.shape(node.inputs[1]) or (0,)
        return 2 * graph.count(node.inputs[0]) * math.prod(weight[1:])
    if node.op == "Einsum":
        return 2 * _einsum(graph, node)
    if node.op in _POOLS:
        return made * math.prod(node.integers("kernel_shape", (1,)))
    if node.op in _OVER_INPUT or node.op.startswith("Reduce"):
        return graph.count(node.inputs[0])
    if node.op in ("ScatterElements", "ScatterND"):
        return graph.count(node.inputs[2])
    return made * (_FUNCTION if node.op in _FUNCTIONS else 1)


def traffic(graph: Sized, node: Node) -> int:
    """Bytes that one node reads and writes, each once: what a cache keeps is not taken off."""
    if node.op in VIEWS:
        return 0
    written = sum(graph.bytes(name) for name in node.outputs if name)
    if node.op in ("Gather", "Slice", "Shape", "Size"):  # they read what they pick
        return 2 * written
    return written + sum(graph.bytes(name) for name in node.inputs if name)


def _product(graph: Sized, node: Node, made: int) -> int:
    left = graph.shape(node.inputs[0]) or (0,)
    if node.op == "MatMul":
        return 2 * made * left[-1]
    inner = left[0] if node.attributes.get("transA", 0) else left[-1]
    return made * (2 * inner + bool(node.input(2)))


def _einsum(graph: Sized, node: Node) -> int:
    """The sizes of all indices, multiplied."""
    sizes: dict[str, int] = {}
    terms = str(node.attributes.get("equation", "")).replace(" ", "").split("->")[0].split(",")
    for term, name in zip(terms, node.inputs, strict=False):
        shape = graph.shape(name) or ()
        letters = term.replace("...", "")
        sizes |= dict(zip(letters[::-1], shape[::-1], strict=False))
        if "..." in term:
            sizes["..."] = max(sizes.get("...", 1), math.prod(shape[: len(shape) - len(letters)]))
    return math.prod(sizes.values())
