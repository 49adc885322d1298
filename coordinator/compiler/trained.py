"""Which weights are trained, and whether gradients can reach them.

A weight is a float32 initialiser of the model in a place where an operator takes weights
(`Operator.weights`): the matrices, kernels, tables and biases of layers, the scale and bias of a
norm, the slope of a PRelu. Of other initialisers:

* a lone number (no axes) is a constant, and so is what a `Constant` node holds;
* what is subtracted or divided by is a constant: that is how inputs are standardised;
* what is added is a weight, and so is what is multiplied in if it has two elements or more (the
  bias and scale of a layer or a norm that was exported in primitives), unless it meets the model's
  inputs before any weight has (standardisation again), or holds infinity or a number beyond 1e9
  (the mask of an attention).

The task's `model.frozen` takes weights out, `model.trained` puts others in.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Graph, Node
from coordinator.compiler.model import Model
from coordinator.compiler.operators import LOWERINGS, OPERATORS, supported
from coordinator.compiler.operators.registry import Operator

_MASK = 1e9
"""What an attention adds to hide a place is beyond this, and no weight is."""
_NOTHING = Operator()


def weights(
    model: Model, output: str, frozen: Iterable[str], trained: Iterable[str] = ()
) -> list[str]:
    """The weights to train, in the order in which the model uses them.

    Raises `CompileError` for weights of other types, patterns that match nothing or contradict
    each other, and when nothing is left.
    """
    still = matching(model, "frozen", frozen)
    added = matching(model, "trained", trained)
    if both := sorted(model.weights[w] for w in still & added):
        raise CompileError(f"weight {both[0]!r} is in model.frozen and in model.trained; choose")
    found: dict[str, None] = {}
    raw = set(model.inputs.values())
    for node in _toward(model.graph, output):
        places = _weights_of(model, node, raw)
        if not places and raw.intersection(node.inputs) and raw.issuperset(_computed(model, node)):
            raw.update(node.outputs)
        direct = [w for w in (_source(model.graph, n) for n in node.inputs) if w in added]
        for w in (*places, *direct):
            if w not in still:
                _check(model, w, node)
                found[w] = None
    if unused := sorted(model.weights[w] for w in added - set(found)):
        raise CompileError(f"model.trained: the output does not depend on weight {unused[0]!r}")
    if not found:
        reason = "all are frozen" if still else "no operator on the way to it has any"
        raise CompileError(
            f"the output has no weights to train: {reason}; weights are float32 initialisers of "
            + ", ".join(sorted(op for op, entry in OPERATORS.items() if entry.weights))
        )
    return list(found)


def matching(model: Model, key: str, patterns: Iterable[str]) -> set[str]:
    """The weights that the patterns of `model.<key>` match; `CompileError` if one matches none."""
    found = set()
    for pattern in patterns:
        hit = {w for w, name in model.weights.items() if fnmatchcase(name, pattern)}
        if not hit:
            names = ", ".join(list(model.weights.values())[:20])
            raise CompileError(
                f"model.{key}: {pattern!r} matches no weight of the model; it has {names}"
            )
        found |= hit
    return found


def moving(graph: Graph, trained: Iterable[str]) -> set[str]:
    """The tensors that move with the weights, so that gradients may pass them."""
    found = set(trained)
    for node in graph.nodes:
        if found.intersection(node.inputs) and not OPERATORS.get(node.op, _NOTHING).stops:
            found.update(o for o in node.outputs if o and _carries_gradient(graph, o))
    return found


def is_supported(graph: Graph, node: Node) -> bool:
    """Whether a gradient can pass. A loss of ours may use operators that models may not."""
    return node.op in OPERATORS or (node.origin not in graph.labels and node.op in LOWERINGS)


def check_operators(graph: Graph, trained: Iterable[str], loss: str) -> None:
    """Raise `CompileError` if a gradient must pass an operator that is not supported, or if none
    reaches a weight."""
    trained = tuple(trained)
    passed = moving(graph, trained)
    for node in _toward(graph, loss):
        if passed.intersection(node.inputs) and not is_supported(graph, node):
            raise CompileError(
                f"operator {node.op} ({graph.label(node.origin)}) cannot be trained through. "
                f"Supported: {supported()}. Freezing every weight before it also helps"
            )
    reached = {n for node in _toward(graph, loss, stop=True) for n in node.inputs}
    for w in trained:
        if w not in reached:
            raise CompileError(f"no gradient reaches {graph.label(w)}; freeze it")


def _toward(graph: Graph, output: str, stop: bool = False) -> list[Node]:
    """The nodes that lead to `output` through floating-point tensors, in running order.

    With `stop`, only those that a gradient passes.
    """
    needed, nodes = {output}, []
    for node in reversed(graph.nodes):
        if not needed.intersection(node.outputs):
            continue
        if stop and OPERATORS.get(node.op, _NOTHING).stops:
            continue
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


def _computed(model: Model, node: Node) -> list[str]:
    """The node's inputs that are neither initialisers nor constants."""
    fixed = {*model.weights, *model.graph.constants, ""}
    return [n for n in node.inputs if _source(model.graph, n) not in fixed]


def _weights_of(model: Model, node: Node, raw: set[str]) -> list[str]:
    """The initialisers that are weights of this node. `raw` comes from the inputs alone."""
    entry = OPERATORS.get(node.op, _NOTHING)
    if entry.least and raw.intersection(node.inputs):
        return []
    found = []
    for place in entry.weights:
        if place >= len(node.inputs):
            continue
        w = _source(model.graph, node.inputs[place])
        value = model.values.get(w)
        if value is None or value.dtype.kind != "f" or value.ndim == 0 or value.size == 0:
            continue
        if entry.least and (value.size < entry.least or not np.abs(value).max() < _MASK):
            continue
        found.append(w)
    return found


def _check(model: Model, weight: str, node: Node) -> None:
    value, name = model.values[weight], model.weights[weight]
    if value.dtype != "float32":
        raise CompileError(
            f"weight {name!r} of {node.op} ({model.graph.label(node.origin)}) is "
            f"{value.dtype.name}; only float32 weights can be trained: convert it or freeze it"
        )
    if not np.isfinite(value).all():
        raise CompileError(f"weight {name!r} holds NaN or infinity")
