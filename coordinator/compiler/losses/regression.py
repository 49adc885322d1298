"""Losses of numbers: the target is a float32 tensor of the output's own shape."""

from typing import TypeVar

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import FLOAT, Emitter
from coordinator.compiler.losses.base import Classifier, Decisions, Elementwise, Judges, Loss, Total
from coordinator.compiler.options import losses as options
from wire.plan import Input

Options = TypeVar("Options", bound=options.Shared)


class Regression(Loss[Options]):
    """A loss of output - target, with a mean over the batch and the elements."""

    def check(self, label: str) -> None:
        if not self.shape:
            raise CompileError(
                f"{label} is a scalar; the loss {self.kind!r} needs a batch axis and one value an "
                "example"
            )
        if not self.elements:
            raise self.refuse(label, "one value an example at least")

    def target(self, name: str) -> Input:
        return Input(name=name, dtype="float32", shape=self.example_shape)

    @property
    def each(self) -> int:
        """Elements of one example."""
        return self.elements

    def squares(self, emit: Emitter, output: str, target: str) -> str:
        """Sum over the batch of each example's mean squared error."""
        error = emit.op("Sub", output, target)
        total = emit.op("ReduceSum", emit.op("Mul", error, error), keepdims=0)
        return emit.op("Mul", total, emit.const(1 / self.each))

    def magnitudes(self, emit: Emitter, output: str, target: str) -> str:
        """Sum over the batch of each example's mean absolute error."""
        error = emit.op("Abs", emit.op("Sub", output, target))
        total = emit.op("ReduceSum", error, keepdims=0)
        return emit.op("Mul", total, emit.const(1 / self.each))


class MeanSquaredError(Regression[options.MeanSquaredError]):
    """(output - target)^2. Left to the builder: plans that are out there have its gradient."""

    def mean(self, emit: Emitter, output: str, target: str) -> str:
        error = emit.op("Sub", output, target)
        return emit.op("ReduceMean", emit.op("Mul", error, error), keepdims=0)

    def total(self, emit: Emitter, output: str, target: str) -> Total:
        return Total(self.squares(emit, output, target))


class AbsoluteError(Regression[options.AbsoluteError], Elementwise[options.AbsoluteError]):
    """|output - target|; its slope where the two are equal is 0."""

    def values(self, emit: Emitter, output: str, target: str) -> str:
        return emit.op("Abs", emit.op("Sub", output, target))

    def slopes(self, emit: Emitter, output: str, target: str) -> str:
        return emit.op("Sign", emit.op("Sub", output, target))


class Huber(Regression[options.Huber], Elementwise[options.Huber]):
    """e^2 / 2 up to |e| = delta, then delta (|e| - delta / 2), e = output - target (Huber, 1964).

    With c = e held within [-delta, delta] both are c (e - c / 2), and the slope is c.
    """

    def values(self, emit: Emitter, output: str, target: str) -> str:
        error, held = self._errors(emit, output, target)
        half = emit.op("Mul", held, emit.const(0.5))
        return emit.op("Mul", held, emit.op("Sub", error, half))

    def slopes(self, emit: Emitter, output: str, target: str) -> str:
        return self._errors(emit, output, target)[1]

    def _errors(self, emit: Emitter, output: str, target: str) -> tuple[str, str]:
        error, delta = emit.op("Sub", output, target), self.section.delta
        return error, emit.op("Clip", error, emit.const(-delta), emit.const(delta))


class BinaryCrossEntropy(
    Classifier[options.BinaryCrossEntropy],
    Regression[options.BinaryCrossEntropy],
    Elementwise[options.BinaryCrossEntropy],
):
    """(1 - t) x + (1 + (p - 1) t) softplus(-x): -(p t log s(x) + (1 - t) log(1 - s(x))), for logits
    x and targets t in [0, 1], written so that no logit is too large for it (as in PyTorch)."""

    def target(self, name: str) -> Input:
        return Input(name=name, dtype="float32", shape=self.example_shape, range=(0.0, 1.0))

    def values(self, emit: Emitter, output: str, target: str) -> str:
        weight = self._weight(emit, target)
        if weight is None:
            return emit.op("Sub", emit.op("Softplus", output), emit.op("Mul", output, target))
        no = emit.op("Mul", emit.op("Sub", emit.const(1), target), output)
        yes = emit.op("Mul", weight, emit.op("Softplus", emit.op("Neg", output)))
        return emit.op("Add", no, yes)

    def slopes(self, emit: Emitter, output: str, target: str) -> str:
        weight = self._weight(emit, target)
        if weight is None:
            return emit.op("Sub", emit.op("Sigmoid", output), target)
        unsure = emit.op("Sigmoid", emit.op("Neg", output))
        no = emit.op("Sub", emit.const(1), target)
        return emit.op("Sub", no, emit.op("Mul", weight, unsure))

    @property
    def judges(self) -> Judges:
        return Judges(1, self.elements)

    def judged(self, emit: Emitter, output: str, target: str) -> Decisions:
        return Decisions(output, positive(emit, target, 0.5))

    def _weight(self, emit: Emitter, target: str) -> str | None:
        p = self.section.positive_weight
        if p == 1:
            return None
        return emit.op("Add", emit.const(1), emit.op("Mul", target, emit.const(p - 1)))


def positive(emit: Emitter, values: str, above: float) -> str:
    """1.0 where a float32 tensor is above a number, else 0.0."""
    return emit.op("Cast", emit.op("Greater", values, emit.const(above)), to=FLOAT)
