"""Metrics of classifiers: what was said against what is so, counted over a batch."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import FLOAT, INT64, Emitter
from coordinator.compiler.losses import Classes, Classifier, Decisions
from coordinator.compiler.losses.base import one_hot
from coordinator.compiler.losses.terms import Term
from wire.plan import METRIC_LIMIT, Metric

Totals = Callable[[Emitter], str]
"""Emits the totals over the batch, float32: a scalar, or of the metric's shape."""

_BINS_MOST, _BINS_LEAST = 1024, 32
_CELLS = 1 << 16  # bins of all classes together, as long as each has the least
_CERTAIN = 6e-8  # of what a probability differs from 1 at least, in float32
_HUGE = 1e30  # as good as infinite


class Measured(NamedTuple):
    """A metric, and how its totals over a batch are computed."""

    metric: Metric
    totals: Totals


def rows(emit: Emitter, *parts: Sequence[str]) -> str:
    """[rows, columns]: of one vector a row, or of scalars."""
    line = emit.ints(1, -1)
    whole = []
    for row in parts:
        cells = [emit.op("Reshape", part, line) for part in row]
        whole.append(cells[0] if len(cells) == 1 else emit.op("Concat", *cells, axis=1))
    return emit.op("Concat", *whole, axis=0)


def _classifier(term: Term) -> Classifier[Any]:
    assert isinstance(term.loss, Classifier)  # `options.metrics.SUITS` sees to it
    return term.loss


def _judged(emit: Emitter, term: Term) -> Classes | Decisions:
    return _classifier(term).judged(emit, term.output, term.target)


def _as_float(emit: Emitter, values: str) -> str:
    return emit.op("Cast", values, to=FLOAT)


def _sum(emit: Emitter, values: str) -> str:
    return emit.op("ReduceSum", values, keepdims=0)


def _said(emit: Emitter, found: Decisions) -> str:
    """1.0 where the decision is yes."""
    return _as_float(emit, emit.op("Greater", found.scores, emit.const(0)))


# Shares


def _accuracy(name: str, term: Term) -> Measured:
    def right(emit: Emitter, found: Classes | Decisions) -> str:
        if isinstance(found, Decisions):
            return _as_float(emit, emit.op("Equal", _said(emit, found), found.actual))
        best = emit.op("ArgMax", found.scores, axis=1, keepdims=0)
        return _as_float(emit, emit.op("Equal", best, found.labels))

    return _share(name, term, right)


def top(name: str, term: Term, k: int) -> Measured:
    """How often the label is among the k best. Raises `CompileError` for too few classes."""
    classes = _classifier(term).judges.classes
    if k >= classes:
        raise CompileError(
            f"training.metrics: {name!r} needs more than {k} classes, and output {term.name!r} has "
            f"{classes}; take a smaller number"
        )

    def right(emit: Emitter, found: Classes | Decisions) -> str:
        assert isinstance(found, Classes)
        _, best = emit.ops("TopK", (found.scores, emit.ints(k)), 2, axis=1)
        label = emit.op("Unsqueeze", found.labels, emit.ints(1))
        hit = _as_float(emit, emit.op("Equal", best, label))
        return emit.op("ReduceSum", hit, emit.ints(1), keepdims=0)

    return _share(name, term, right)


def _share(name: str, term: Term, right: Callable[[Emitter, Classes | Decisions], str]) -> Measured:
    """How much of what counts is right: `right` gives 1.0 or 0.0 for each."""

    def of_all(emit: Emitter) -> str:
        found = _judged(emit, term)
        line = isinstance(found, Classes) and found.rank == 2
        axes = [emit.const([0], np.int64)] if line else []
        total = emit.op("ReduceSum", right(emit, found), *axes, keepdims=0)
        return emit.op("Mul", total, emit.const(1 / _classifier(term).judges.places))

    def of_counted(emit: Emitter) -> str:
        found = _judged(emit, term)
        assert isinstance(found, Classes)
        assert found.counted is not None
        hits = _sum(emit, emit.op("Mul", right(emit, found), found.counted))
        return rows(emit, [hits], [_sum(emit, found.counted)])

    if _classifier(term).judges.all_count:
        return Measured(Metric(name=name, better="higher"), of_all)
    return Measured(Metric(name=name, reduce="ratio", better="higher", shape=(2, 1)), of_counted)


# Ratios, class by class


class _Counts(NamedTuple):
    """How often each class was said rightly, was said, and was so: [classes], or scalars where
    there is but yes or no."""

    right: str
    said: str
    actual: str


def _counts(emit: Emitter, term: Term) -> _Counts:
    found = _judged(emit, term)
    if isinstance(found, Decisions):
        said, actual = _said(emit, found), found.actual
        both = emit.op("Mul", said, actual)
        return _Counts(_sum(emit, both), _sum(emit, said), _sum(emit, actual))
    best = emit.op("ArgMax", found.scores, axis=1, keepdims=0)
    classes = _classifier(term).judges.classes
    said, actual = one_hot(emit, best, classes), _actual(emit, found, classes)
    if found.counted is not None:
        said = emit.op("Mul", said, emit.op("Unsqueeze", found.counted, emit.ints(1)))
    both = emit.op("Mul", said, actual)
    axes = emit.ints(0, *range(2, found.rank))
    a, b, c = (emit.op("ReduceSum", cells, axes, keepdims=0) for cells in (both, said, actual))
    return _Counts(a, b, c)


def _actual(emit: Emitter, found: Classes, classes: int) -> str:
    """1.0 at each label's class, along axis 1, where it counts."""
    actual = one_hot(emit, found.labels, classes)
    if found.counted is None:
        return actual
    return emit.op("Mul", actual, emit.op("Unsqueeze", found.counted, emit.ints(1)))


def _precision(emit: Emitter, found: _Counts) -> tuple[str, str]:
    return found.right, found.said


def _recall(emit: Emitter, found: _Counts) -> tuple[str, str]:
    return found.right, found.actual


def _f1(emit: Emitter, found: _Counts) -> tuple[str, str]:
    twice = emit.op("Mul", found.right, emit.const(2))
    return twice, emit.op("Add", found.said, found.actual)


def _ratio(part: Callable[[Emitter, _Counts], tuple[str, str]], name: str, term: Term) -> Measured:
    def totals(emit: Emitter) -> str:
        first, second = part(emit, _counts(emit, term))
        return rows(emit, [first], [second])

    shape = (2, _classifier(term).judges.classes)
    return Measured(Metric(name=name, reduce="ratio", better="higher", shape=shape), totals)


# Area under the ROC curve


def _auc(name: str, term: Term) -> Measured:
    classes = _classifier(term).judges.classes
    bins = max(_BINS_LEAST, min(_BINS_MOST, _CELLS // classes))
    shape = (2, bins) if classes == 1 else (2, classes, bins)
    if 2 * classes * bins > METRIC_LIMIT:
        most = METRIC_LIMIT // (2 * _BINS_LEAST)
        raise CompileError(f"training.metrics: {name!r}: {classes} classes; at most {most}")

    def totals(emit: Emitter) -> str:
        found = _judged(emit, term)
        if isinstance(found, Decisions):
            scores = found.scores
            cells = _cells(emit, scores, found.actual, bins, bins)
            counted = emit.op("Expand", emit.const(1), emit.op("Shape", cells))
        else:
            actual = _actual(emit, found, classes)
            scores = _odds(emit, found)
            cells = _cells(emit, scores, actual, bins, classes * bins)
            each = emit.const(np.arange(classes) * bins, np.int64)
            column = emit.op("Reshape", each, emit.ints(-1, *[1] * (found.rank - 2)))
            cells = emit.op("Add", cells, column)
            counted = emit.op("Expand", emit.const(1), emit.op("Shape", cells))
            if found.counted is not None:
                counts = emit.op("Unsqueeze", found.counted, emit.ints(1))
                counted = emit.op("Mul", counted, counts)
        # Of a model that has diverged there is no figure, rather than a wrong one.
        counted = emit.op("Where", emit.op("IsNaN", scores), scores, counted)
        return _histogram(emit, cells, counted, shape)

    return Measured(Metric(name=name, reduce="auc", better="higher", shape=shape), totals)


def _odds(emit: Emitter, found: Classes) -> str:
    """Each class against all others: log(p / (1 - p)), in the order of the probabilities p."""
    if not found.exclusive:
        return found.scores
    log_p = emit.op("LogSoftmax", found.scores, axis=1)
    rest = emit.op("Sub", emit.const(1), emit.op("Exp", log_p))
    return emit.op("Sub", log_p, emit.op("Log", emit.op("Max", rest, emit.const(_CERTAIN))))


def _cells(emit: Emitter, scores: str, actual: str, bins: int, row: int) -> str:
    """Which cell of the histogram each score is in: those that are not so, a row further on.

    Softsign takes all numbers to (-1, 1) and has bins to spare for large ones, as the scores of a
    rare class are. What is no number goes to any cell: a place beyond them would stop the runtime.
    """
    sound = emit.op("Where", emit.op("IsNaN", scores), emit.const(0), scores)
    place = emit.op("Add", emit.op("Softsign", _finite(emit, sound)), emit.const(1))
    place = emit.op("Mul", place, emit.const(bins / 2))
    place = emit.op("Clip", place, emit.const(0), emit.const(bins - 1))
    no = emit.op("Sub", emit.const(1), actual)
    cell, further = (emit.op("Cast", part, to=INT64) for part in (place, no))
    return emit.op("Add", cell, emit.op("Mul", further, emit.const(row, np.int64)))


def _finite(emit: Emitter, scores: str) -> str:
    """Infinity has no Softsign."""
    return emit.op("Clip", scores, emit.const(-_HUGE), emit.const(_HUGE))


def _histogram(emit: Emitter, cells: str, counted: str, shape: tuple[int, ...]) -> str:
    """How much of `counted` lies in each cell."""
    flat, length = emit.ints(-1), emit.ints(int(np.prod(shape)))
    zeros = emit.op("ConstantOfShape", length, value=np.zeros(1, np.float32))
    found = emit.op(
        "ScatterElements",
        zeros,
        emit.op("Reshape", cells, flat),
        emit.op("Reshape", counted, flat),
        axis=0,
        reduction="add",
    )
    return emit.op("Reshape", found, emit.ints(*shape))


KINDS: dict[str, Callable[[str, Term], Measured]] = {
    "accuracy": _accuracy,
    "precision": partial(_ratio, _precision),
    "recall": partial(_ratio, _recall),
    "f1": partial(_ratio, _f1),
    "auc": _auc,
}
