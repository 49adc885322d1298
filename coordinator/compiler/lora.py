"""Low-rank adapters (LoRA, Hu et al., 2022): a matrix stays, two thin ones beside it learn.

    x W  becomes  x W + (alpha / rank) (x A) B

A takes what the layer takes, [in, rank]; B makes what the layer makes, [rank, out]. A begins normal
with the deviation 1 / sqrt(in), of a seed that is the weight's own name, and B with zeros: so the
adapted model begins as the model was. The product A B, as large as W, is never made. A convolution
of 1x1 is such a product at each place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from coordinator.compiler import shapes
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Array, Emitter, Node, TensorType
from coordinator.compiler.model import Model
from coordinator.compiler.options.model import Lora
from coordinator.compiler.patterns import matching

_TAKERS = "MatMul, Gemm (as its second input) or a 1x1 Conv"


@dataclass(frozen=True)
class _Adapter:
    """The two thin tensors beside a weight, and what multiplies their product."""

    a: str
    b: str
    scale: float


def adapted(model: Model, options: Lora | None) -> Model:
    """The model with adapters beside the matrices that `options` chooses, which are frozen, as is
    all else unless it says otherwise; the model itself without options.

    Raises `CompileError` for a pattern that matches nothing, or a weight that is no matrix that a
    layer takes, and for a rank above its smaller side.
    """
    if options is None:
        return model
    chosen = matching(model, "lora.weights", options.weights)
    graph = model.graph.copy()
    weights, values = dict(model.weights), dict(model.values)
    made: dict[str, _Adapter] = {}
    emit = Emitter(graph, "lora")
    for weight in chosen:
        sides = _sides(model, weight, options.rank)
        names = emit.name(), emit.name()
        for name, kind, value in zip(names, "ab", _first(model, weight, sides), strict=True):
            weights[name], values[name] = f"{model.weights[weight]}/lora_{kind}", value
            graph.types[name] = TensorType(value.dtype, value.shape)
            graph.labels[name] = f"weight {weights[name]!r}"
        made[weight] = _Adapter(*names, options.alpha / options.rank)
    old, graph.nodes = graph.nodes, []
    for node in old:
        weight = node.input(1)
        if weight in made:
            _beside(Emitter(graph, node.name), node, made[weight])
        else:
            graph.nodes.append(node)
    still = frozenset(chosen if options.train_rest else model.weights)
    shapes.infer(graph, (*model.inputs.values(), *weights))
    return replace(model, graph=graph, weights=weights, values=values, still=still)


_Sides = tuple[tuple[int, ...], tuple[int, ...]]


def _sides(model: Model, weight: str, rank: int) -> _Sides:
    """The shapes of A and B. Raises `CompileError`."""
    name, shape = model.weights[weight], model.values[weight].shape
    takers = [node for node in model.graph.nodes if weight in node.inputs]
    unfit = next((node for node in takers if not _takes(node, weight, shape)), None)
    if len(shape) not in (2, 4) or not takers or unfit is not None:
        raise CompileError(
            f"model.lora.weights: {name!r} has the shape {list(shape)} and goes to "
            f"{', '.join(sorted({n.op for n in takers})) or 'no operator'}; adapters need a matrix "
            f"that only {_TAKERS} takes"
        )
    if model.values[weight].dtype != np.float32:
        raise CompileError(f"model.lora.weights: {name!r} is not float32")
    flipped = {_flipped(node) for node in takers}
    if len(flipped) > 1:
        raise CompileError(
            f"model.lora.weights: {name!r} is taken as it is and transposed; adapters need one way"
        )
    into, out = (shape[1], shape[0]) if flipped.pop() else shape[:2]
    if rank > min(into, out):
        raise CompileError(
            f"model.lora.rank = {rank}: at most {min(into, out)} for {name!r}, which is "
            f"{into} by {out}"
        )
    if len(shape) == 4:
        return (rank, into, 1, 1), (out, rank, 1, 1)
    return (into, rank), (rank, out)


def _takes(node: Node, weight: str, shape: tuple[int, ...]) -> bool:
    """Whether this node multiplies its first input by the weight, as a matrix."""
    if node.inputs.count(weight) != 1 or node.inputs[1] != weight:
        return False
    if node.op == "Conv":
        return shape[2:] == (1, 1) and node.attributes.get("group", 1) == 1
    if len(shape) != 2:
        return False
    return node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transA", 0))


def _flipped(node: Node) -> bool:
    """Whether the weight is [out, in] rather than [in, out]."""
    return node.op == "Conv" or bool(node.attributes.get("transB", 0))


def _first(model: Model, weight: str, sides: _Sides) -> tuple[Array, Array]:
    """What A and B begin with."""
    a, b = sides
    rng = np.random.default_rng(list(model.weights[weight].encode()))
    into = a[1] if len(a) == 4 else a[0]
    return rng.normal(scale=1 / math.sqrt(into), size=a).astype("f4"), np.zeros(b, np.float32)


def _beside(emit: Emitter, node: Node, adapter: _Adapter) -> None:
    """Emit the node, and beside it what its adapter adds."""
    own = emit.name()
    emit.graph.nodes.append(replace(node, outputs=(own,)))
    scale = adapter.scale * float(node.attributes.get("alpha", 1.0))
    low = emit.op("Mul", _PRODUCTS[node.op](emit, node, adapter.a), emit.const(scale))
    high = emit.op("Conv" if node.op == "Conv" else "MatMul", low, adapter.b)
    emit.graph.nodes.append(
        Node("Add", (own, high), node.outputs, name=f"{emit.origin}.{node.outputs[0]}")
    )


def _product(emit: Emitter, node: Node, a: str) -> str:
    return emit.op("MatMul", node.inputs[0], a)


def _convolution(emit: Emitter, node: Node, a: str) -> str:
    return emit.op("Conv", node.inputs[0], a, **node.attributes)


_PRODUCTS: dict[str, Callable[[Emitter, Node, str], str]] = {
    "MatMul": _product,
    "Gemm": _product,
    "Conv": _convolution,
}
