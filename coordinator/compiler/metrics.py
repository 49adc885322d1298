"""The metrics: totals over a batch in operators; `wire.plan.Metric` says what becomes of them.

That a metric suits its loss is checked with the task file.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from coordinator.compiler import judging
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter
from coordinator.compiler.judging import Measured
from coordinator.compiler.losses import Regression
from coordinator.compiler.losses.terms import Term, examples, weighted
from coordinator.compiler.options.metrics import place_of, taken_apart
from wire.plan import Metric, Reduce


def measured(names: Sequence[str], terms: Sequence[Term]) -> list[Measured]:
    """The metrics that a task asks for. Raises `CompileError` for an output that has no loss, and
    for what does not suit its classes."""
    return [_measured(name, terms) for name in names]


def _measured(name: str, terms: Sequence[Term]) -> Measured:
    wanted = taken_apart(name)
    place = place_of(wanted, [term.loss.section.output for term in terms])
    if place is None or wanted.output not in (None, terms[place].name):
        outputs = ", ".join(repr(term.name) for term in terms)
        raise CompileError(f"training.metrics: {name!r}: the losses' outputs are {outputs}")
    if name == "loss":
        return _loss(name, terms)
    term = terms[place]
    if wanted.kind == "loss":
        return _loss(name, [term._replace(weight=1.0)])
    if wanted.k:
        return judging.top(name, term, wanted.k)
    return _KINDS[wanted.kind](name, term)


def _loss(name: str, terms: Sequence[Term]) -> Measured:
    """The weighted sum of the losses: of ratios where one of them does not count every example."""

    def by_example(emit: Emitter) -> str:
        sums = [weighted(emit, t.total(emit).sum, t.weight) for t in terms]
        return sums[0] if len(sums) == 1 else emit.op("Sum", *sums)

    def by_count(emit: Emitter) -> str:
        totals = [(t, t.total(emit)) for t in terms]
        sums = [weighted(emit, total.sum, t.weight) for t, total in totals]
        counts = [total.divisor or examples(emit, t.target) for t, total in totals]
        return judging.rows(emit, sums, counts)

    if all(term.loss.by_example for term in terms):
        return Measured(Metric(name=name, better="lower"), by_example)
    shape = (2, len(terms))
    return Measured(
        Metric(name=name, reduce="sum_of_ratios", better="lower", shape=shape), by_count
    )


def _numbers(name: str, term: Term) -> Measured:
    """Of a loss of numbers: the root of the mean square error, or the mean absolute error."""
    loss = cast("Regression[Any]", term.loss)
    squared = taken_apart(name).kind == "rmse"

    def totals(emit: Emitter) -> str:
        errors = loss.squares if squared else loss.magnitudes
        return errors(emit, term.output, term.target)

    reduce: Reduce = "root_mean" if squared else "mean"
    return Measured(Metric(name=name, reduce=reduce, better="lower"), totals)


_KINDS: dict[str, Callable[[str, Term], Measured]] = {
    "rmse": _numbers,
    "mae": _numbers,
    **judging.KINDS,
}
