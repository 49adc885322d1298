"""The strategies that fold each update into a sum and forget it: FedAvg and its relatives.

A late update's change is scaled down by its staleness, its weight in the denominator is not: a
round of stale updates takes a smaller step, rather than a full one in an old direction.
"""

from collections.abc import Iterable
from pathlib import Path

from coordinator.aggregation.contract import Next
from coordinator.aggregation.layout import Layout
from coordinator.aggregation.options import Streaming
from coordinator.aggregation.recipe import Contribution, Recipe
from coordinator.aggregation.server import ServerOptimizer
from coordinator.aggregation.sums import Sum
from coordinator.aggregation.verdict import check
from wire.checkpoint import Weights


class StreamingAggregator:
    """See `coordinator.aggregation.contract.Aggregator`."""

    streams = True

    def __init__(self, options: Streaming, layout: Layout, staleness_exponent: float) -> None:
        self._layout = layout
        self._recipe = Recipe.of(options, staleness_exponent)
        self._optimizer = ServerOptimizer(options, layout.parameters)

    def check(self, update: Contribution) -> None:
        check(update, self._layout, self._recipe.weight(update.examples))

    def empty(self) -> Sum:
        return Sum(self._recipe, self._layout)

    def read(self, data: bytes) -> Sum:
        return Sum.of_bytes(data, self._recipe, self._layout)

    def close(self, base: Weights, state: bytes | None, total: Sum) -> Next:
        mean = total.mean()
        if self._recipe.normalised:
            mean *= self._recipe.steps_of(total.work, total.weight)
        weights, after = self._optimizer.step(base, self._layout.views(mean), state)
        return Next(weights, after, total.updates, total.examples)

    def close_all(
        self,
        base: Weights,
        state: bytes | None,
        updates: Iterable[tuple[str, Contribution]],
        scratch: Path,
    ) -> Next:
        total = self.empty()
        for _, update in updates:
            total.add(update)
        return self.close(base, state, total)

    def needs(self, updates: int) -> str | None:
        return None
