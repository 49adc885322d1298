"""A version of the model, evaluated: on the test set, and on each device's held-out examples."""

import math
from collections.abc import Mapping

from coordinator.aggregation.options import Aggregation, counted
from coordinator.spread import Spread, spread
from edge_agent.evaluation import metrics_of
from fleet.simulation.crew import AT_ONCE, Crew
from fleet.simulation.data import Data
from fleet.simulation.workshop import Workshop
from wire.plan import Manifest

_PIECE = 2500
"""Examples that are evaluated by one piece of work, about: always the same parts, so that sums are
the same whoever adds them."""


class Evaluating:
    """Of one plan's models, in files."""

    def __init__(
        self, manifest: Manifest, aggregation: Aggregation, data: Data, crew: Crew
    ) -> None:
        self._manifest = manifest
        self._crew = crew
        self._size = 0 if data.test is None else len(data.test)
        held = data.held_out
        sizes = {device: n for device in range(len(held.ends)) if (n := held.size(device))}
        self._parts = _parts(sizes)
        self._weights = [counted(aggregation, size) for size in sizes.values()]

    def test(self, model: str) -> dict[str, float]:
        """The metrics on the test set; nothing where there is none."""
        if not self._size:
            return {}
        starts = range(0, self._size, _PIECE)
        asked = [
            self._crew.ask(AT_ONCE, Workshop.totals, model, start, start + _PIECE)
            for start in starts
        ]
        parts = [pending.result() for pending in asked]
        totals = [sum(more, first) for first, *more in zip(*parts, strict=True)]
        return metrics_of(self._manifest, totals, self._size)

    def devices(self, model: str) -> Mapping[str, Spread]:
        """The spread of each metric over the devices, which weigh as much as the coordinator counts
        them for; a figure that is not finite says nothing."""
        asked = [self._crew.ask(AT_ONCE, Workshop.evaluate, model, part) for part in self._parts]
        found = [metrics for pending in asked for metrics in pending.result()]
        spreads = {}
        for metric in self._manifest.metrics:
            values = [
                (metrics[metric.name], weight)
                for metrics, weight in zip(found, self._weights, strict=True)
                if math.isfinite(metrics[metric.name])
            ]
            if values:
                spreads[metric.name] = spread(values, metric.better)
        return spreads


def _parts(sizes: Mapping[int, int]) -> list[tuple[int, ...]]:
    """Devices, some at a time."""
    parts: list[tuple[int, ...]] = []
    part: list[int] = []
    examples = 0
    for device, size in sizes.items():
        part.append(device)
        examples += size
        if examples >= _PIECE:
            parts.append(tuple(part))
            part, examples = [], 0
    return [*parts, tuple(part)] if part else parts
