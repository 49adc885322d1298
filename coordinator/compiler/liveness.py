"""The memory that the tensors of a graph hold at once, by when each is made and last read."""

import math
from dataclasses import dataclass

from coordinator.compiler.cost import VIEWS
from coordinator.compiler.graph import Node
from coordinator.compiler.sizes import Sized

_IN_PLACE = frozenset({
    "Relu", "Add", "Sub", "Mul", "Div", "Sigmoid", "Tanh", "Exp", "Log", "Sqrt", "Neg", "Abs",
    "Clip", "Elu", "Erf", "Softplus", "LeakyRelu", "Softmax", "LogSoftmax", "Pow", "Reciprocal",
})  # fmt: skip
"""Operators that may write over an input that nobody reads any more, as the runtime lets them."""


@dataclass(frozen=True)
class Peak:
    """The most bytes that are live at once: at `node`, which makes `largest` bytes itself."""

    bytes: int
    node: str
    largest: int


def peak(graph: Sized) -> Peak:
    """Of what nodes make, in the order in which they stand, without inputs, constants and outputs:
    those have memory of their own."""
    owner = _owners(graph)
    last = _last_uses(graph, owner)
    kept = {owner.get(name, name) for name in graph.outputs}
    live: dict[str, int] = {}
    now = most = 0
    where, largest = "", 0
    for i, node in enumerate(graph.nodes):
        dying = {o for n in node.inputs if n and last.get(o := owner.get(n, n)) == i and o in live}
        made = {
            name: graph.bytes(name)
            for name in node.outputs
            if name and owner.get(name, name) == name and name not in kept
        }
        reused = _reused(node, made, {o: live[o] for o in dying})
        scratch = _scratch(graph, node)
        if now + sum(made.values()) - reused + scratch > most:
            most, where = now + sum(made.values()) - reused + scratch, node.op
        largest = max((largest, *made.values()))
        live |= made
        now += sum(made.values())
        for gone in (*dying, *(name for name in made if name not in last)):
            now -= live.pop(gone, 0)
    return Peak(most, where, largest)


def _owners(graph: Sized) -> dict[str, str]:
    """The tensor in whose memory a view lies."""
    owner: dict[str, str] = {}
    for node in graph.nodes:
        if node.op in VIEWS:
            owner[node.outputs[0]] = owner.get(node.inputs[0], node.inputs[0])
    return owner


def _last_uses(graph: Sized, owner: dict[str, str]) -> dict[str, int]:
    return {owner.get(n, n): i for i, node in enumerate(graph.nodes) for n in node.inputs if n}


def _reused(node: Node, made: dict[str, int], dying: dict[str, int]) -> int:
    """Bytes of what a node makes that go where a dying input lay."""
    if node.op not in _IN_PLACE or not made:
        return 0
    size = next(iter(made.values()))
    return size if size in dying.values() else 0


def _scratch(graph: Sized, node: Node) -> int:
    """What a convolution lays out for itself: a transposed one holds its whole matrix of columns,
    for one image and group at a time."""
    if node.op != "ConvTranspose":
        return 0
    shape, weight = graph.shape(node.inputs[0]), graph.shape(node.inputs[1])
    if not shape or not weight:
        return 0
    return 4 * math.prod((*shape[2:], *weight[1:]))
