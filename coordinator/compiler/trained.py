"""Which weights are trained, and whether gradients can reach them."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Graph, Node
from coordinator.compiler.model import Model
from coordinator.compiler.operators import OPERATORS, supported
from coordinator.compiler.simplify import RANDOM


def weights(model: Model, output: str, frozen: Iterable[str]) -> list[str]:
    """The weights to train, in the order in which the model uses them.

    They are the float32 initialisers that an operator takes as weights, on the way to `output`,
    unless a pattern of `frozen` says otherwise. Raises `CompileError` for weights of other types,
    patterns that match nothing, and when nothing is left.
    """
    still = _frozen(model, tuple(frozen))
    found: dict[str, None] = {}
    for node in _toward(model.graph, output):
        for place in OPERATORS[node.op].weights if node.op in OPERATORS else ():
            if place < len(node.inputs):
                weight = _source(model.graph, node.inputs[place])
                if weight in model.weights and weight not in still and _fits(model, weight, node):
                    found[weight] = None
    if not found:
        reason = "all are frozen" if still else "no operator on the way to it has any"
        raise CompileError(
            f"the output has no weights to train: {reason}; weights are float32 initialisers of "
            + ", ".join(sorted(op for op, entry in OPERATORS.items() if entry.weights))
        )
    return list(found)


def check_operators(graph: Graph, trained: Iterable[str], output: str) -> None:
    """Raise `CompileError` if a gradient must pass an operator that is not supported."""
    moving = set(trained)
    for node in _toward(graph, output):
        if node.op in RANDOM:
            raise CompileError(
                f"operator {node.op} ({graph.label(node.origin)}) takes random numbers of its own, "
                "which would differ from device to device; export the model without it. Dropout is "
                "supported"
            )
        if not moving.intersection(node.inputs):
            continue
        if node.op not in OPERATORS:
            raise CompileError(
                f"operator {node.op} ({graph.label(node.origin)}) cannot be trained through. "
                f"Supported: {supported()}. Freezing every weight before it also helps"
            )
        moving.update(name for name in node.outputs if _carries_gradient(graph, name))


def _frozen(model: Model, patterns: tuple[str, ...]) -> set[str]:
    still = set()
    for pattern in patterns:
        hit = {w for w, name in model.weights.items() if fnmatchcase(name, pattern)}
        if not hit:
            names = ", ".join(list(model.weights.values())[:20])
            raise CompileError(
                f"model.frozen: {pattern!r} matches no weight of the model; it has {names}"
            )
        still |= hit
    return still


def _toward(graph: Graph, output: str) -> list[Node]:
    """The nodes that lead to `output` through floating-point tensors, in running order."""
    needed, nodes = {output}, []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            nodes.append(node)
            needed.update(n for n in node.inputs if n and _carries_gradient(graph, n))
    return nodes[::-1]


def _carries_gradient(graph: Graph, name: str) -> bool:
    if name in graph.constants:
        return graph.constants[name].dtype.kind == "f"
    known = graph.types.get(name)
    return known is None or known.dtype.kind == "f"


def _source(graph: Graph, name: str) -> str:
    """The tensor that this one is, maybe rearranged."""
    made = graph.producers()
    while (node := made.get(name)) and node.op in OPERATORS and OPERATORS[node.op].view:
        name = node.inputs[0]
    return name


def _fits(model: Model, weight: str, node: Node) -> bool:
    """Whether an initialiser in a weight's place is one; a lone number is a constant."""
    value = model.values[weight]
    if value.dtype.kind == "f" and value.dtype != "float32":
        raise CompileError(
            f"weight {model.weights[weight]!r} of {node.op} ({model.graph.label(node.origin)}) is "
            f"{value.dtype.name}; only float32 weights can be trained: convert it or freeze it"
        )
    return value.dtype == "float32" and value.ndim > 0 and value.size > 0
