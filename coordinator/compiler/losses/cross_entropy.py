"""Cross-entropy: one class of several, with logits."""

from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from coordinator.compiler import slopes
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import FLOAT, Emitter
from coordinator.compiler.losses.base import Classes, Classifier, Judges, Total, one_hot
from coordinator.compiler.options import losses as options
from wire.plan import Input

_TINY = 1e-30  # what a batch is divided by in which nothing counts


class _Sums(NamedTuple):
    """log softmax, the weight that each class's logarithm has in the loss, and the mean's parts:
    the sum (negative) and what it is divided by."""

    log_p: str
    weights: str
    total: str
    divisor: str


class CrossEntropy(Classifier[options.CrossEntropy]):
    """-sum over classes of q log softmax(output), for logits [batch, classes, ...], or with the
    classes last, and an int64 label for each place.

    q is w (1 - e) at the label's class, plus w e / classes everywhere (Szegedy et al., 2016), with
    the class weights w and the smoothing e. The sum over all places is divided by the sum of their
    labels' weights, ignored places left out of both: what PyTorch computes.
    """

    def check(self, label: str) -> None:
        axis = self.section.axis
        if len(self.shape) < 2 or not self.elements or self.classes < 2:
            wanted = "[batch, classes]" if axis == 1 else "[batch, ..., classes]"
            raise self.refuse(label, f"{wanted}, one logit a class and two classes or more")
        given = len(self.section.class_weights)
        if given not in (0, self.classes):
            raise CompileError(
                f"loss.class_weights has {given} weights and {label} {self.classes} classes; give "
                "one weight a class"
            )

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.shape[self.section.axis])

    def target(self, name: str) -> Input:
        ignored = self.section.ignored
        inside = ignored is None or 0 <= ignored < self.classes
        return Input(
            name=name,
            dtype="int64",
            shape=self.places,
            classes=self.classes,
            ignored=UNSET if inside or ignored is None else ignored,
        )

    @property
    def places(self) -> tuple[int, ...]:
        """The shape of one example's labels."""
        shape = self.example_shape
        return shape[1:] if self.section.axis == 1 else shape[:-1]

    def mean(self, emit: Emitter, output: str, target: str) -> str:
        output, target = self._classes_second(emit, output, target)
        sums = self._sums(emit, output, target)
        mean = emit.op("Neg", emit.op("Div", sums.total, sums.divisor))
        p = emit.op("Exp", sums.log_p)
        if not self._plain:
            p = emit.op("Mul", p, emit.op("ReduceSum", sums.weights, emit.ints(1), keepdims=1))
        return slopes.scalar(emit, output, mean, emit.op("Sub", p, sums.weights), sums.divisor)

    def total(self, emit: Emitter, output: str, target: str) -> Total:
        output, target = self._classes_second(emit, output, target)
        if not self._plain:
            sums = self._sums(emit, output, target)
            return Total(emit.op("Neg", sums.total), sums.divisor)
        log_p = emit.op("LogSoftmax", output, axis=1)
        labels = emit.op("Unsqueeze", target, emit.ints(1))
        chosen = emit.op("GatherElements", log_p, labels, axis=1)
        total = emit.op("Neg", emit.op("ReduceSum", chosen, keepdims=0))
        return Total(emit.op("Mul", total, emit.const(1 / int(np.prod(self.places)))))

    def judged(self, emit: Emitter, output: str, target: str) -> Classes:
        output, target = self._classes_second(emit, output, target)
        counted = None if self.section.ignored is None else self._counted(emit, target)
        rank = 2 if self.section.axis == -1 else len(self.shape)
        return Classes(output, target, counted, rank, exclusive=True)

    @property
    def by_example(self) -> bool:
        return self._plain

    @property
    def judges(self) -> Judges:
        return Judges(self.classes, int(np.prod(self.places)), self.section.ignored is None)

    @property
    def _plain(self) -> bool:
        s = self.section
        weighted = bool(s.class_weights or s.smoothing)
        return not weighted and s.ignored is None

    def _classes_second(self, emit: Emitter, output: str, target: str) -> tuple[str, str]:
        """Logits with the classes on axis 1. With the classes last, every place is an example."""
        if self.section.axis == 1 or len(self.shape) == 2:
            return output, target
        flat = emit.op("Reshape", output, emit.ints(-1, self.classes))
        return flat, emit.op("Reshape", target, emit.ints(-1))

    def _sums(self, emit: Emitter, output: str, target: str) -> _Sums:
        s = self.section
        log_p = emit.op("LogSoftmax", output, axis=1)
        chosen = one_hot(emit, target, self.classes)
        if s.ignored is not None and -self.classes <= s.ignored < self.classes:
            # Other numbers are no index, not even one from the end, and get no 1 anyway.
            chosen = emit.op("Mul", chosen, _unsqueezed(emit, self._counted(emit, target)))
        by_class = self._class_weights(emit, output)
        weights = chosen if by_class is None else emit.op("Mul", chosen, by_class)
        count = emit.op("ReduceSum", weights, keepdims=0)
        if s.ignored is not None:
            count = emit.op("Max", count, emit.const(_TINY))
        if s.smoothing:
            weights = self._smoothed(emit, chosen, weights, by_class)
        total = emit.op("ReduceSum", emit.op("Mul", log_p, weights), keepdims=0)
        return _Sums(log_p, weights, total, count)

    def _smoothed(self, emit: Emitter, chosen: str, weights: str, by_class: str | None) -> str:
        e = self.section.smoothing
        rest = emit.const(e / self.classes)
        if by_class is not None:
            rest = emit.op("Mul", by_class, rest)
        if self.section.ignored is not None:
            rest = emit.op("Mul", rest, emit.op("ReduceSum", chosen, emit.ints(1), keepdims=1))
        return emit.op("Add", emit.op("Mul", weights, emit.const(1 - e)), rest)

    def _class_weights(self, emit: Emitter, output: str) -> str | None:
        """[classes, 1, ...]: so that they stand along axis 1."""
        if not self.section.class_weights:
            return None
        others = 0 if self.section.axis == -1 else len(self.places)
        return emit.const(np.reshape(self.section.class_weights, (-1, *[1] * others)))

    def _counted(self, emit: Emitter, target: str) -> str:
        same = emit.op("Equal", target, emit.const(self.section.ignored, np.int64))
        return emit.op("Cast", emit.op("Not", same), to=FLOAT)


def _unsqueezed(emit: Emitter, name: str) -> str:
    return emit.op("Unsqueeze", name, emit.ints(1))
