"""Rewrites that leave a graph's results as they are and make it smaller.

Each rule is one small function from a graph to whether it changed anything. `simplify` applies
them until none does.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from onnx.reference import ReferenceEvaluator

from coordinator.compiler import convert
from coordinator.compiler.graph import BATCH, Array, Emitter, Graph, Node

FOLD_LIMIT = 1 << 16
"""Elements of a constant that folding may make, at most: large ones cost more as bytes."""

_FILL_LIMIT = 256
RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike",
          "Multinomial", "Bernoulli")  # fmt: skip
"""Operators that give something else each time."""
CHANCE = (*RANDOM, "Dropout")
"""Operators that may."""


def simplify(graph: Graph, outputs: Iterable[str]) -> dict[str, str]:
    """Apply every rule until none changes anything, and drop what no output needs.

    `outputs` are the tensors that must still be computed. Returns where each of them is now: an
    output that was only a copy of another tensor is that tensor.
    """
    wanted = {name: name for name in outputs}
    changed = True
    while changed:
        changed = fold(graph)
        aliases = _aliases(graph)
        if aliases:
            graph.nodes = [n.renamed(aliases) for n in graph.nodes if n.outputs[0] not in aliases]
            wanted = {name: aliases.get(now, now) for name, now in wanted.items()}
            changed = True
        for rule in _RULES:
            changed = rule(graph) or changed
        prune(graph, wanted.values())
    return wanted


def prune(graph: Graph, outputs: Iterable[str]) -> None:
    """Drop nodes and constants that no output needs."""
    needed = set(outputs)
    kept = []
    for node in reversed(graph.nodes):
        if needed.intersection(o for o in node.outputs if o):
            kept.append(node)
            needed.update(node.inputs)
            needed.update(*(graph.slopes[o] for o in node.outputs if o in graph.slopes))
    graph.nodes = kept[::-1]
    graph.constants = {n: v for n, v in graph.constants.items() if n in needed}


def forget(graph: Graph, outputs: Iterable[str]) -> None:
    """Drop what no output needs, and the names of parts and indices that nobody reads.

    Expansions write a Split otherwise when some of its parts lead nowhere, or a layer norm whose
    statistics are read, and refuse a MaxPool whose indices are.
    """
    prune(graph, outputs)
    read = {n for node in graph.nodes for n in node.inputs} | set(outputs)
    for i, node in enumerate(graph.nodes):
        if node.op in ("Split", "MaxPool", "LayerNormalization"):
            kept = tuple(o if o in read else "" for o in node.outputs)
            graph.nodes[i] = replace(node, outputs=kept)


def name_batch(graph: Graph) -> None:
    """Reshape of [batch, 4, 4] to [-1, 16]: to [0, 16], which says that the axis is the same.

    ONNX Runtime takes an axis of -1 for one of unknown length, and all that comes after it. It then
    finds no two tensors of one size, and as it looks for them among all others, loading a graph of
    thousands of nodes took it minutes. Types must be known.
    """
    for i, node in enumerate(graph.nodes):
        target = graph.constants.get(node.inputs[1]) if node.op == "Reshape" else None
        if target is None or not graph.knows(node.inputs[0]):
            continue
        before, numbers = graph.shape(node.inputs[0]), target.tolist()
        place = numbers.index(-1) if -1 in numbers else len(before)
        same = place < len(before) and before[place] == BATCH
        if same and 0 not in numbers and graph.shape(node.outputs[0])[place] == BATCH:
            numbers[place] = 0
            kept = Emitter(graph).ints(*numbers)
            graph.nodes[i] = replace(node, inputs=(node.inputs[0], kept), attributes={})


def fold(graph: Graph) -> bool:
    """Compute nodes whose inputs are all constants. Shapes that do not vary `shapes.py` has made
    constants."""
    kept: list[Node] = []
    for node in graph.nodes:
        values = _computed(graph, node)
        if values is None:
            kept.append(node)
        else:
            graph.constants.update(zip(node.outputs, values, strict=True))
    changed = len(kept) < len(graph.nodes)
    graph.nodes = kept
    return changed


def _computed(graph: Graph, node: Node) -> list[Array] | None:
    if node.domain or node.op in CHANCE or not node.inputs:
        return None
    if not all(n in graph.constants for n in node.inputs if n):
        return None
    feeds = {n: graph.constants[n] for n in node.inputs if n}
    if sum(v.size for v in feeds.values()) > FOLD_LIMIT:
        return None
    for output in node.outputs:
        known = graph.types.get(output)
        if known is None or known.shape is None:
            continue
        if math.prod(n for n in known.shape if isinstance(n, int)) > FOLD_LIMIT:
            return None
    result = ReferenceEvaluator(convert.proto_of(node)).run(None, feeds)
    values = [np.asarray(value) for value in result]
    # One number many times over is made as fast as it is read, and no file has to hold it.
    limit = _FILL_LIMIT if node.op == "ConstantOfShape" else FOLD_LIMIT
    return values if sum(v.size for v in values) <= limit else None


def _aliases(graph: Graph) -> dict[str, str]:
    """Tensors that are copies of others: outputs of nodes that do nothing, and repeated nodes."""
    aliases: dict[str, str] = {}
    seen: dict[tuple[object, ...], Node] = {}
    shared: dict[tuple[object, ...], str] = {}
    for name, value in graph.constants.items():
        key = (value.dtype.str, value.shape, value.tobytes()) if value.size <= 64 else (name,)
        if shared.setdefault(key, name) != name:
            aliases[name] = shared[key]
    for original in graph.nodes:
        node = original.renamed(aliases)
        same = _does_nothing(graph, node)
        if same is not None:
            aliases[node.outputs[0]] = same
            continue
        if node.op in CHANCE or any(_is_large(value) for value in node.attributes.values()):
            continue  # the one gives something else each time, the other's text is an abbreviation
        identity = (node.op, node.domain, node.inputs, repr(sorted(node.attributes.items())))
        twin = seen.setdefault(identity, node)
        if twin is not node and len(twin.outputs) == len(node.outputs):
            aliases.update(
                (b, a) for a, b in zip(twin.outputs, node.outputs, strict=True) if a and b
            )
    return aliases


def _is_large(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.size > 64


def _does_nothing(graph: Graph, node: Node) -> str | None:
    """The input that this node merely copies, or None."""
    if node.domain:
        return None
    if node.op == "Identity" or (node.op in ("Sum", "Concat") and len(node.inputs) == 1):
        return node.inputs[0]
    if node.op == "Div" and _is(graph, node.inputs[1], 1):
        return node.inputs[0]
    if node.op == "Mul":
        for one, other in (node.inputs, node.inputs[::-1]):
            if _is(graph, one, 1):
                return other
    return None


def _is(graph: Graph, name: str, number: float) -> bool:
    """Whether this is a constant scalar of that value, which broadcasts to any shape."""
    value = graph.constants.get(name)
    return value is not None and value.ndim == 0 and float(value) == number


def _expanded_scalar(graph: Graph) -> bool:
    """Mul(Expand(s, Shape(y)), x), s a scalar, x as large as y: Mul(s, x)."""
    made = graph.producers()
    changed = False
    for i, node in enumerate(graph.nodes):
        if node.op != "Mul":
            continue
        for one, other in (node.inputs, node.inputs[::-1]):
            expand = made.get(one)
            if expand is None or expand.op != "Expand":
                continue
            scalar, like = graph.types.get(expand.inputs[0]), made.get(expand.inputs[1])
            if scalar is None or scalar.shape != () or like is None or like.op != "Shape":
                continue
            a, b = graph.types.get(like.inputs[0]), graph.types.get(other)
            if a is None or b is None or a.shape is None or a.shape != b.shape or like.attributes:
                continue
            graph.nodes[i] = replace(node, inputs=(expand.inputs[0], other))
            changed = True
            break
    return changed


def _sum_of_twins(graph: Graph) -> bool:
    """Sum(x, x): Mul(x, 2)."""
    changed = False
    for i, node in enumerate(graph.nodes):
        if node.op in ("Sum", "Add") and len(node.inputs) == 2 and len(set(node.inputs)) == 1:
            known = graph.types.get(node.inputs[0])
            two = Emitter(graph).const(2.0, known.dtype if known else np.float32)
            graph.nodes[i] = replace(node, op="Mul", inputs=(node.inputs[0], two))
            changed = True
    return changed


_RULES: tuple[Callable[[Graph], bool], ...] = (_expanded_scalar, _sum_of_twins)
