"""The losses: one class each, registered for its section of the task file.

A loss is written in operators that can be differentiated (`operators/`), so its gradient needs no
writing. Labels come in as one more example input.
"""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, TensorType, describe
from coordinator.compiler.options import losses as options
from coordinator.compiler.options.section import Section
from wire.plan import Input

Options = TypeVar("Options", bound=Section)


class Loss(ABC, Generic[Options]):
    """How a loss is computed from the model's output, [batch, ...] float32, and the label."""

    def __init__(self, section: Options, output: TensorType, label: str) -> None:
        """`label` names the output in messages. Raises `CompileError` if it does not fit."""
        self.section = section
        self.shape = output.shape or ()
        self.check(label)

    @abstractmethod
    def check(self, label: str) -> None:
        """Raise `CompileError` unless the output's shape, `self.shape`, suits the loss."""

    @abstractmethod
    def target(self, name: str) -> Input:
        """The example input that holds the labels."""

    @abstractmethod
    def mean(self, emit: Emitter, output: str, target: str) -> str:
        """The mean loss over the batch, a scalar: what is differentiated."""

    @abstractmethod
    def total(self, emit: Emitter, output: str, target: str) -> str:
        """The sum over the batch of each example's loss, a scalar."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The output's shape for one example."""
        return tuple(int(n) for n in self.shape[1:])


class CrossEntropy(Loss[options.CrossEntropy]):
    """Mean of -log softmax(output)[label], for logits [batch, classes] and int64 labels."""

    def check(self, label: str) -> None:
        if len(self.shape) != 2 or self.example_shape[0] < 2:
            raise CompileError(
                f"{label} has the shape {describe(self.shape)}; the loss 'cross_entropy' needs "
                "[batch, classes], one logit a class and two classes or more"
            )

    def target(self, name: str) -> Input:
        return Input(name=name, dtype="int64", shape=(), classes=self.example_shape[0])

    def mean(self, emit: Emitter, output: str, target: str) -> str:
        # The second output, the log-probabilities, is there for the gradient builder.
        loss, _ = emit.ops("SoftmaxCrossEntropyLoss", (output, target), 2, reduction="mean")
        return loss

    def total(self, emit: Emitter, output: str, target: str) -> str:
        log_p = emit.op("LogSoftmax", output, axis=1)
        labels = emit.op("Unsqueeze", target, emit.ints(1))
        chosen = emit.op("GatherElements", log_p, labels, axis=1)
        return emit.op("Neg", emit.op("ReduceSum", chosen, keepdims=0))


class MeanSquaredError(Loss[options.MeanSquaredError]):
    """Mean over the batch and the elements of (output - target)^2, two tensors of one shape."""

    def check(self, label: str) -> None:
        if not self.shape:
            raise CompileError(
                f"{label} is a scalar; the loss 'mse' needs a batch axis and one value an example"
            )

    def target(self, name: str) -> Input:
        return Input(name=name, dtype="float32", shape=self.example_shape)

    def mean(self, emit: Emitter, output: str, target: str) -> str:
        return emit.op("ReduceMean", self._squares(emit, output, target), keepdims=0)

    def total(self, emit: Emitter, output: str, target: str) -> str:
        each = max(int(np.prod(self.example_shape)), 1)
        total = emit.op("ReduceSum", self._squares(emit, output, target), keepdims=0)
        return emit.op("Mul", total, emit.const(1 / each))

    @staticmethod
    def _squares(emit: Emitter, output: str, target: str) -> str:
        error = emit.op("Sub", output, target)
        return emit.op("Mul", error, error)


LOSSES: dict[type[Section], type[Loss[Any]]] = {
    options.CrossEntropy: CrossEntropy,
    options.MeanSquaredError: MeanSquaredError,
}


def loss_of(section: options.Loss, output: TensorType, label: str) -> Loss[Any]:
    """The loss that a task file asks for. Raises `CompileError` if the output does not suit it."""
    return LOSSES[type(section)](section, output, label)
