"""Losses of vectors: what counts is where they point, not how long they are."""

from typing import TypeVar

from coordinator.compiler import slopes
from coordinator.compiler.graph import FLOAT, Emitter
from coordinator.compiler.losses.base import Loss, Total
from coordinator.compiler.options import losses as options
from wire.plan import Input

Options = TypeVar("Options", bound=options.Shared)

_SHORT = 1e-8  # a vector up to so long points nowhere: it is like no other, and has no gradient
_NEVER = 60  # a logit so far below every other has a softmax of 0


class Embedding(Loss[Options]):
    """A loss of vectors, [batch, length]."""

    def check(self, label: str) -> None:
        if len(self.shape) != 2 or self.elements < 2:
            raise self.refuse(label, "[batch, length], a vector of two elements or more each")

    @staticmethod
    def unit(emit: Emitter, vectors: str) -> tuple[str, str]:
        """The vectors at length 1, or 0 for short ones; and what each was multiplied by, so."""
        length = emit.op("ReduceL2", vectors, emit.ints(1), keepdims=1)
        least = emit.const(_SHORT)
        points = emit.op("Cast", emit.op("Greater", length, least), to=FLOAT)
        factor = emit.op("Div", points, emit.op("Max", length, least))
        return emit.op("Mul", vectors, factor), factor

    @staticmethod
    def through_unit(emit: Emitter, unit: str, factor: str, slope: str) -> str:
        """From the gradient by unit vectors to that by the vectors they were made of."""
        along = emit.op("ReduceSum", emit.op("Mul", unit, slope), emit.ints(1), keepdims=1)
        across = emit.op("Sub", slope, emit.op("Mul", unit, along))
        return emit.op("Mul", across, factor)


class Cosine(Embedding[options.Cosine]):
    """1 - x.t / (|x| |t|), from 0 to 2; a vector of zeros gives 1."""

    def target(self, name: str) -> Input:
        return Input(name=name, dtype="float32", shape=self.example_shape)

    def mean(self, emit: Emitter, output: str, target: str) -> str:
        unit, factor = self.unit(emit, output)
        wanted, _ = self.unit(emit, target)
        total = self._total(emit, unit, wanted)
        count = emit.op("Cast", emit.op("Size", factor), to=FLOAT)
        slope = self.through_unit(emit, unit, factor, emit.op("Neg", wanted))
        return slopes.scalar(emit, output, emit.op("Div", total, count), slope, count)

    def total(self, emit: Emitter, output: str, target: str) -> Total:
        return Total(self._total(emit, self.unit(emit, output)[0], self.unit(emit, target)[0]))

    @staticmethod
    def _total(emit: Emitter, unit: str, wanted: str) -> str:
        alike = emit.op("ReduceSum", emit.op("Mul", unit, wanted), emit.ints(1), keepdims=0)
        return emit.op("ReduceSum", emit.op("Sub", emit.const(1), alike), keepdims=0)


class Contrastive(Embedding[options.Contrastive]):
    """The supervised contrastive loss within a batch (Khosla et al., 2020, equation 2, L_out).

    z are the embeddings at length 1 and t is the temperature. An example i whose label others of
    the batch have, too, P(i), costs

        -1 / |P(i)| sum over p in P(i) of log(e(i, p) / sum over a != i of e(i, a))

    with e(i, j) = exp(z_i.z_j / t), and the mean is over those examples. An example without another
    of its label is only what the rest is pushed away from; a batch in which no label is twice, as
    one of a single example, gives 0 and no gradient.
    """

    def target(self, name: str) -> Input:
        return Input(name=name, dtype="int64", shape=())

    @property
    def by_example(self) -> bool:
        return False

    def mean(self, emit: Emitter, output: str, target: str) -> str:
        unit, factor = self.unit(emit, output)
        log_p, wanted, total = self._sums(emit, unit, target)
        anchors = emit.op("ReduceSum", wanted, emit.ints(1), keepdims=1)  # 1 for those that count
        count = self._count(emit, anchors)
        by_logit = emit.op("Sub", emit.op("Mul", emit.op("Exp", log_p), anchors), wanted)
        both = emit.op("Add", by_logit, emit.op("Transpose", by_logit, perm=[1, 0]))
        by_unit = emit.op("MatMul", both, emit.op("Mul", unit, self._scale(emit)))
        slope = self.through_unit(emit, unit, factor, by_unit)
        return slopes.scalar(emit, output, emit.op("Div", total, count), slope, count)

    def total(self, emit: Emitter, output: str, target: str) -> Total:
        unit, _ = self.unit(emit, output)
        _, wanted, total = self._sums(emit, unit, target)
        return Total(total, emit.op("ReduceSum", wanted, keepdims=0))

    def _sums(self, emit: Emitter, unit: str, labels: str) -> tuple[str, str, str]:
        """log softmax over the others, [batch, batch]; 1 / |P(i)| at each p; the sum of losses."""
        column = emit.op("Unsqueeze", labels, emit.ints(1))
        row = emit.op("Unsqueeze", labels, emit.ints(0))
        same = emit.op("Cast", emit.op("Equal", column, row), to=FLOAT)
        own = emit.op("EyeLike", same)
        others = emit.op("Sub", same, own)
        number = emit.op("ReduceSum", others, emit.ints(1), keepdims=1)
        wanted = emit.op("Div", others, emit.op("Max", number, emit.const(1)))
        transposed = emit.op("Transpose", emit.op("Mul", unit, self._scale(emit)), perm=[1, 0])
        alike = emit.op("MatMul", unit, transposed)
        far = 2 / self.section.temperature + _NEVER  # logits are that much apart by themselves
        never = emit.op("Mul", own, emit.const(far))
        log_p = emit.op("LogSoftmax", emit.op("Sub", alike, never), axis=1)
        total = emit.op("ReduceSum", emit.op("Mul", log_p, wanted), keepdims=0)
        return log_p, wanted, emit.op("Neg", total)

    def _scale(self, emit: Emitter) -> str:
        return emit.const(1 / self.section.temperature)

    @staticmethod
    def _count(emit: Emitter, anchors: str) -> str:
        return emit.op("Max", emit.op("ReduceSum", anchors, keepdims=0), emit.const(1))
