"""Losses of a linear support vector machine."""

from typing import TypeVar

import numpy as np

from coordinator.compiler.graph import FLOAT, Emitter
from coordinator.compiler.losses.base import (
    Classes,
    Classifier,
    Decisions,
    Elementwise,
    Judges,
)
from coordinator.compiler.options import losses as options
from wire.plan import Input

Options = TypeVar("Options", bound=options.Hinge | options.SquaredHinge)


class Margin(Classifier[Options], Elementwise[Options]):
    """A function of r = max(0, margin - y x), summed over the classes, with a mean over the batch.

    One output x, [batch] or [batch, 1]: the labels are 0 and 1, y is -1 and 1. Several,
    [batch, classes]: each is a decision between its class (y = 1) and all others (y = -1), as in
    scikit-learn's `LinearSVC` (one-vs-rest).
    """

    def check(self, label: str) -> None:
        if len(self.shape) not in (1, 2) or not self.elements:
            raise self.refuse(label, "[batch], [batch, 1] or [batch, classes]")

    def target(self, name: str) -> Input:
        return Input(name=name, dtype="int64", shape=(), classes=max(self.elements, 2))

    @property
    def judges(self) -> Judges:
        return Judges(self.elements)

    def judged(self, emit: Emitter, output: str, target: str) -> Classes | Decisions:
        if self.elements > 1:
            return Classes(output, target, None, 2, exclusive=False)
        return Decisions(output, self._column(emit, emit.op("Cast", target, to=FLOAT)))

    def remainder(self, emit: Emitter, output: str, target: str) -> tuple[str, str]:
        """r and y, in the output's shape."""
        side = self._side(emit, target)
        inside = emit.op("Sub", emit.const(self.section.margin), emit.op("Mul", side, output))
        return emit.op("Relu", inside), side

    def _side(self, emit: Emitter, target: str) -> str:
        if self.elements > 1:
            depth, values = emit.const(self.elements, np.int64), emit.const([-1.0, 1.0])
            return emit.op("OneHot", target, depth, values, axis=1)
        doubled = emit.op("Mul", emit.op("Cast", target, to=FLOAT), emit.const(2))
        return self._column(emit, emit.op("Sub", doubled, emit.const(1)))

    def _column(self, emit: Emitter, values: str) -> str:
        """[batch] in the shape of the one output."""
        return values if len(self.shape) == 1 else emit.op("Unsqueeze", values, emit.ints(1))


class Hinge(Margin[options.Hinge]):
    """r (Cortes and Vapnik, 1995); its slope at the margin itself is 0."""

    def values(self, emit: Emitter, output: str, target: str) -> str:
        return self.remainder(emit, output, target)[0]

    def slopes(self, emit: Emitter, output: str, target: str) -> str:
        r, side = self.remainder(emit, output, target)
        return emit.op("Neg", emit.op("Mul", emit.op("Sign", r), side))


class SquaredHinge(Margin[options.SquaredHinge]):
    """r^2, which is what `LinearSVC` minimises by default."""

    def values(self, emit: Emitter, output: str, target: str) -> str:
        r, _ = self.remainder(emit, output, target)
        return emit.op("Mul", r, r)

    def slopes(self, emit: Emitter, output: str, target: str) -> str:
        r, side = self.remainder(emit, output, target)
        return emit.op("Mul", emit.op("Mul", r, side), emit.const(-2))
