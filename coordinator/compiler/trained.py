"""Which weights are trained, and whether gradients can reach them.

A weight is a float32 initialiser of the model in a place where an operator takes weights
(`Operator.weights`): the matrices, kernels, tables and biases of layers, the scale and bias of a
norm, the slope of a PRelu. Of other initialisers:

* a lone number (no axes) is a constant, and so is what a `Constant` node holds;
* what is subtracted or divided by is a constant: that is how inputs are standardised;
* what is added is a weight, and so is what is multiplied in if it has two elements or more (the
  bias and scale of a layer or a norm that was exported in primitives), unless it meets the model's
  inputs before any weight has (standardisation again), or holds a number from 1e4 on (the mask of
  an attention, the scale of a result);
* scales of 1 and biases of 0 of an instance norm after a Reshape are constants: that is how
  exporters write a group norm, whose own scale and bias come later.

The task's `model.frozen` takes weights out, `model.trained` puts others in.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from coordinator.compiler import checks
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Graph, Node
from coordinator.compiler.model import Model
from coordinator.compiler.operators import LOWERINGS, OPERATORS, supported
from coordinator.compiler.operators.registry import Operator
from coordinator.compiler.patterns import matching

_LARGE = 1e4
"""No weight is that large; what an attention adds to hide a place is."""
_NOTHING = Operator()


def weights(
    model: Model, outputs: Iterable[str], frozen: Iterable[str], trained: Iterable[str] = ()
) -> list[str]:
    """The weights on the way to these outputs that are to be trained, in the order in which the
    model uses them.

    Raises `CompileError` for weights of other types, patterns that match nothing or contradict
    each other, and when nothing is left.
    """
    still = {*matching(model, "frozen", frozen), *model.still}
    added = set(matching(model, "trained", trained))
    if both := sorted(model.weights[w] for w in model.still & added):
        raise CompileError(
            f"model.trained: {both[0]!r} stays as it is, since model.lora trains its adapters, and "
            "what it has not chosen only with train_rest = true"
        )
    if both := sorted(model.weights[w] for w in still & added):
        raise CompileError(f"weight {both[0]!r} is in model.frozen and in model.trained; choose")
    found: dict[str, None] = {}
    raw = set(model.inputs.values())
    made = model.graph.producers()
    fixed = {*model.weights, *model.graph.constants, ""}
    for node in _toward(model.graph, outputs):
        sources = [_source(made, name) for name in node.inputs]
        places = _weights_of(model, node, sources, made)
        if raw.intersection(node.inputs) and OPERATORS.get(node.op, _NOTHING).least:
            places = []
        computed = {
            n for n, source in zip(node.inputs, sources, strict=True) if source not in fixed
        }
        if not places and computed and computed <= raw:
            raw.update(node.outputs)
        for w in (*places, *(w for w in sources if w in added)):
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
            + (". model.trained names others" if model.weights else "")
        )
    return list(found)


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
    for node in _toward(graph, [loss]):
        if passed.intersection(node.inputs) and not is_supported(graph, node):
            raise CompileError(
                f"operator {graph.where(node)} cannot be trained through. "
                f"Supported: {supported()}. Freezing every weight before it also helps"
            )
    reached = {n for node in _toward(graph, [loss], stop=True) for n in node.inputs}
    checks.check_gradients([graph.label(w) for w in trained if w not in reached])


def _toward(graph: Graph, outputs: Iterable[str], stop: bool = False) -> list[Node]:
    """The nodes that lead to `outputs` through floating-point tensors, in running order.

    With `stop`, only those that a gradient passes.
    """
    needed, nodes = set(outputs), []
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


def _source(made: Mapping[str, Node], name: str) -> str:
    """The tensor that this one is, maybe rearranged."""
    while (node := made.get(name)) and node.op in OPERATORS and OPERATORS[node.op].view:
        name = node.inputs[0]
    return name


def _weights_of(
    model: Model, node: Node, sources: Sequence[str], made: Mapping[str, Node]
) -> list[str]:
    """The initialisers that are weights of this node, given what its inputs are."""
    entry = OPERATORS.get(node.op, _NOTHING)
    constants = _group_norm_constants(node, made)
    found = []
    for place in entry.weights:
        value = model.values.get(sources[place]) if place < len(sources) else None
        if value is None or value.dtype.kind != "f" or value.ndim == 0 or value.size == 0:
            continue
        if entry.least and (value.size < entry.least or not np.abs(value).max() < _LARGE):
            continue
        if place not in constants or not (value == constants[place]).all():
            found.append(sources[place])
    return found


def _group_norm_constants(node: Node, made: Mapping[str, Node]) -> dict[int, float]:
    """The scale and bias, by place, that an exporter gives an instance norm of groups."""
    before = made.get(node.inputs[0])
    if node.op == "InstanceNormalization" and before is not None and before.op == "Reshape":
        return {1: 1.0, 2: 0.0}
    return {}


def _check(model: Model, weight: str, node: Node) -> None:
    value, name = model.values[weight], model.weights[weight]
    if value.dtype != "float32":
        raise CompileError(
            f"weight {name!r} of {model.graph.where(node)} is "
            f"{value.dtype.name}; only float32 weights can be trained: convert it or freeze it"
        )
    if not np.isfinite(value).all():
        raise CompileError(f"weight {name!r} holds NaN or infinity")
