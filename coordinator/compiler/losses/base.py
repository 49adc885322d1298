"""What a loss is: its demands on the output, its mean with the gradient of it, its sum.

Labels come in as one more example input. Each loss writes its own gradient by the output (see
`slopes.py`), which is short, right at kinks, and safe for huge outputs.
"""

from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from coordinator.compiler import slopes
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import FLOAT, Emitter, TensorType, describe
from coordinator.compiler.options.losses import Loss as LossOptions
from coordinator.compiler.options.losses import Shared, kind_of
from wire.plan import Input

Options = TypeVar("Options", bound=Shared)


class Total(NamedTuple):
    """A sum over the batch, a scalar, and what to divide sums over batches by: a scalar, or `None`
    for the number of examples."""

    sum: str
    divisor: str | None = None


class Judges(NamedTuple):
    """What a classifier decides: one of so many classes (1: yes or no), at so many places of an
    example; and whether every place counts."""

    classes: int
    places: int = 1
    all_count: bool = True


class Classes(NamedTuple):
    """A choice of one class each: scores [batch, classes, ...] of that rank, int64 labels without
    the second axis, and 1 or 0 for those that count (`None`: all do). `scores` are logits of a
    softmax where `exclusive`, else of one decision a class."""

    scores: str
    labels: str
    counted: str | None
    rank: int
    exclusive: bool


class Decisions(NamedTuple):
    """Decisions of yes or no, all of one shape: scores, above 0 for yes, and 1.0 or 0.0."""

    scores: str
    actual: str


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
        """The mean loss over what counts of the batch, a scalar: what is differentiated."""

    @abstractmethod
    def total(self, emit: Emitter, output: str, target: str) -> Total:
        """The sum over the batch: the same mean, over any number of batches."""

    @property
    def by_example(self) -> bool:
        """Whether the mean is over examples, so that `total` has no count of its own."""
        return True

    @property
    def kind(self) -> str:
        """What the task file calls it."""
        section: Any = self.section
        options: LossOptions = section
        return kind_of(options)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The output's shape for one example."""
        return tuple(int(n) for n in self.shape[1:])

    @property
    def elements(self) -> int:
        """Elements of one example's output."""
        return int(np.prod(self.example_shape))

    def refuse(self, label: str, needs: str) -> CompileError:
        """The error of an output that does not suit the loss."""
        return CompileError(
            f"{label} has the shape {describe(self.shape)}; the loss {self.kind!r} needs {needs}"
        )


class Classifier(Loss[Options]):
    """A loss of something that decides, so that metrics can say how often it is right."""

    @property
    @abstractmethod
    def judges(self) -> Judges:
        """What it decides."""

    @abstractmethod
    def judged(self, emit: Emitter, output: str, target: str) -> Classes | Decisions:
        """What it said and what is so."""


class Elementwise(Loss[Options]):
    """A loss that is a sum over elements, each of which looks at one element of the output.

    `each` is what one example's sum is divided by.
    """

    @property
    def each(self) -> int:
        """See above."""
        return 1

    @abstractmethod
    def values(self, emit: Emitter, output: str, target: str) -> str:
        """The loss of each element, in the output's shape."""

    @abstractmethod
    def slopes(self, emit: Emitter, output: str, target: str) -> str:
        """The derivative of each element's loss by the output's element."""

    def mean(self, emit: Emitter, output: str, target: str) -> str:
        values = self.values(emit, output, target)
        count = emit.op("Cast", emit.op("Size", output), to=FLOAT)
        if self.each != self.elements:
            count = emit.op("Mul", count, emit.const(self.each / self.elements))
        mean = emit.op("Div", emit.op("ReduceSum", values, keepdims=0), count)
        return slopes.scalar(emit, output, mean, self.slopes(emit, output, target), count)

    def total(self, emit: Emitter, output: str, target: str) -> Total:
        total = emit.op("ReduceSum", self.values(emit, output, target), keepdims=0)
        return Total(emit.op("Mul", total, emit.const(1 / self.each)))


def one_hot(emit: Emitter, labels: str, classes: int) -> str:
    """Float32 [batch, classes, ...] with 1 at each label's class, on axis 1; a label that is none,
    nor an index from the end, has no 1."""
    depth, values = emit.const(classes, np.int64), emit.const([0.0, 1.0])
    return emit.op("OneHot", labels, depth, values, axis=1)
