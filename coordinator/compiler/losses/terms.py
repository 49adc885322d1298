"""The sum of several losses: what is trained, and what is measured."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from coordinator.compiler.graph import FLOAT, Emitter
from coordinator.compiler.losses.base import Loss, Total


class Term(NamedTuple):
    """A loss in the sum: its output and target, tensors of the graph; the output's name in the
    model; and what the loss is multiplied by."""

    loss: Loss[Any]
    output: str
    target: str
    name: str
    weight: float

    def total(self, emit: Emitter) -> Total:
        """The loss's sum over the batch, without the weight."""
        return self.loss.total(emit, self.output, self.target)


def mean(emit: Emitter, terms: Sequence[Term]) -> str:
    """The weighted sum of the terms' mean losses over the batch, a scalar."""
    found = ""
    for term in terms:
        own = term.loss.mean(emit, term.output, term.target)
        own = weighted(emit, own, term.weight)
        found = emit.op("Add", found, own) if found else own
    return found


def weighted(emit: Emitter, value: str, weight: float) -> str:
    """The value times a weight, or itself for 1."""
    return value if weight == 1 else emit.op("Mul", value, emit.const(weight))


def examples(emit: Emitter, target: str) -> str:
    """The number of examples in the batch, a float32 scalar."""
    length = emit.op("Shape", target, start=0, end=1)
    return emit.op("ReduceSum", emit.op("Cast", length, to=FLOAT), keepdims=0)
