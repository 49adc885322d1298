"""What a graph's small integers come to, when the length of the batch is not known.

Exporters compute shapes from shapes, in any operators they like. All of it is run here for a few
made-up lengths of the batch: what comes out the same each time is a constant, and what grows with
the batch is so many times its length. So no operator needs a rule of its own.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from onnx.reference import ReferenceEvaluator

from coordinator.compiler import convert
from coordinator.compiler.graph import BATCH, Array, Graph, Node, Shape, TensorType
from coordinator.compiler.simplify import CHANCE

LENGTHS = (10007, 10037, 10093)
"""The batch's lengths that are tried. Primes, so that no product of a model's own axes is one of
them by accident, and small enough that float32, in which some exporters reckon sizes, holds
hundreds of times as much."""
SMALL = 1024
"""Elements, at most, of what is looked into: indices and shapes are small."""

Outputs = list[list[TensorType | None]]
"""The types of a node's outputs, of each for each of `LENGTHS`; None for what is not known."""
Tries = tuple[Array, ...]
"""A tensor's value for each of `LENGTHS`."""


def multiple(length: int | str) -> int | None:
    """How many times the batch an axis is long, or None if that is not so or not known."""
    if length == BATCH:
        return 1
    if isinstance(length, str) and length.startswith(f"{BATCH}*"):
        return int(length.removeprefix(f"{BATCH}*"))
    return None


def times(number: int) -> str:
    """The length of an axis that is `number` times the batch."""
    return BATCH if number == 1 else f"{BATCH}*{number}"


def tried(shape: Shape, length: int) -> tuple[int | None, ...]:
    """The shape when the batch has this length; None for what is not known."""
    return tuple(
        n if isinstance(n, int) else None if (k := multiple(n)) is None else k * length
        for n in shape
    )


def joined(found: Sequence[int | None]) -> int | str | None:
    """The one length that came out as these numbers, one for each of `LENGTHS`; None if none is."""
    first = found[0]
    if first is None or None in found:
        return None
    if all(n == first for n in found):
        return int(first)
    number, rest = divmod(first, LENGTHS[0])
    if rest or any(n != number * length for n, length in zip(found, LENGTHS, strict=True)):
        return None
    return times(number) if number > 0 else None


class Probes:
    """The values of a graph's small tensors, as its nodes are shown one after the other.

    `known` is for `shapes`: the types of the outputs of nodes that are alike.
    """

    def __init__(self, graph: Graph) -> None:
        self.known: dict[Hashable, Outputs] = {}
        self._graph = graph
        self._tries: dict[str, Tries] = {}

    def of(self, name: str) -> Tries | None:
        """A tensor's values, or None if it is large or depends on what the examples hold."""
        value = self._graph.constants.get(name)
        if value is not None:
            return (value,) * len(LENGTHS) if value.size <= SMALL else None
        return self._tries.get(name)

    def elements(self, name: str) -> Shape | None:
        """The elements of a small integer tensor, or None where one cannot be told."""
        tries = self.of(name)
        if tries is None or any(t.dtype.kind not in "iu" for t in tries):
            return None
        if len({t.shape for t in tries}) > 1:
            return None
        columns = zip(*(t.ravel().tolist() for t in tries), strict=True)
        found = [joined(column) for column in columns]
        return None if any(n is None for n in found) else tuple(n for n in found if n is not None)

    def see(self, node: Node) -> list[Array] | None:
        """Work a node's outputs out. Returns them if they do not depend on the batch's length."""
        tries = self._tries_of(node)
        if tries is None:
            return None
        first = tries[0]
        if all(_same(first, other) for other in tries[1:]):
            return first
        for place, name in enumerate(node.outputs):
            self._tries[name] = tuple(values[place] for values in tries)
        return None

    def _tries_of(self, node: Node) -> list[list[Array]] | None:
        if node.domain or node.op in CHANCE or not node.inputs:
            return None
        if node.op in ("Shape", "Size"):
            return self._measured(node)
        inputs = [self.of(name) if name else () for name in node.inputs]
        if any(i is None for i in inputs) or not self._small(node):
            return None
        feeds = [
            {n: v[i] for n, v in zip(node.inputs, inputs, strict=True) if n and v}
            for i in range(len(LENGTHS))
        ]
        fixed = all(n in self._graph.constants for n in node.inputs if n)
        run = ReferenceEvaluator(convert.proto_of(node))
        try:
            found = [run.run(None, feed) for feed in (feeds[:1] if fixed else feeds)]
        except Exception:  # noqa: BLE001  (numpy's own kinds: these lengths do not suit the node)
            return None
        arrays = [[np.asarray(value) for value in values] for values in found]
        if any(value.size > SMALL for values in arrays for value in values):
            return None
        return arrays * len(LENGTHS) if fixed else arrays

    def _measured(self, node: Node) -> list[list[Array]] | None:
        known = self._graph.type_of(node.inputs[0])
        if known is None or known.shape is None:
            return None
        shape = known.shape
        if node.op == "Shape":
            start = node.attributes.get("start", 0)
            shape = shape[start : node.attributes.get("end", len(shape))]
        found = []
        for length in LENGTHS:
            numbers = [n for n in tried(shape, length) if n is not None]
            if len(numbers) < len(shape):
                return None
            value = math.prod(numbers) if node.op == "Size" else numbers
            found.append([np.asarray(value, np.int64)])
        return found

    def _small(self, node: Node) -> bool:
        """Whether all outputs whose size is known are small."""
        for name in node.outputs:
            known = self._graph.types.get(name)
            if known is not None and known.shape is not None:
                numbers = [n for n in known.shape if isinstance(n, int)]
                if len(numbers) < len(known.shape) or math.prod(numbers) > SMALL:
                    return False
        return True


def _same(one: list[Array], other: list[Array]) -> bool:
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(one, other, strict=True)
    )
