"""A model's metrics over many examples, in parts that may be measured anywhere.

`edge_agent.session.evaluate` does the same for one device, opening a session each time. Here one is
kept open, and totals are told rather than metrics: only totals of parts add up to the whole's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edge_agent.examples import Examples
from edge_agent.session import CannotRun, open_session
from wire.checkpoint import Weights
from wire.plan import Manifest
from wire.tensors import Array

_BATCH = 250

Totals = list[Array]
"""Of each of the plan's metrics, as its graph sums them, in float64."""


class Measure:
    """A plan's evaluation graph, open. Raises `BadPlan`, `OutOfMemory`."""

    def __init__(self, manifest: Manifest, plan: Path) -> None:
        self._manifest = manifest
        self._session = open_session(plan / "evaluate.onnx", 1)
        self._taken = {i.name for i in self._session.get_inputs()}
        self._names = [f"metric/{m.name}" for m in manifest.metrics]

    def totals(self, weights: Weights, examples: Examples) -> Totals:
        """Over at least one example. Raises `CannotRun`."""
        found = [np.zeros(m.totals) for m in self._manifest.metrics]
        own = {name: values for name, values in weights.items() if name in self._taken}
        for start in range(0, len(examples), _BATCH):
            part = slice(start, start + _BATCH)
            feed = own | {
                name: np.ascontiguousarray(array[part])
                for name, array in examples.arrays.items()
                if name in self._taken
            }
            try:
                parts = self._session.run(self._names, feed)
            except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
                raise CannotRun(f"evaluate.onnx cannot be run: {error}") from None
            for total, more in zip(found, parts, strict=True):
                total += more
        return found


def metrics_of(manifest: Manifest, parts: Sequence[Totals], examples: int) -> dict[str, float]:
    """The metrics of all parts together, which have so many examples."""
    found = {}
    for index, metric in enumerate(manifest.metrics):
        total = sum((part[index] for part in parts[1:]), parts[0][index])
        values = total.ravel().tolist() if metric.totals else float(total)
        found[metric.name] = metric.value(values, examples)
    return found
