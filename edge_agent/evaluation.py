"""A model measured: the plan's evaluation graph over examples. Runs in the training child only, and
in simulations."""

from pathlib import Path

import numpy as np

from edge_agent.examples import Examples
from edge_agent.session import BadPlan, explained, open_session
from wire.checkpoint import Weights
from wire.plan import Manifest
from wire.tensors import Array

BATCH = 64
"""Examples at a time: of 256, a small CNN takes more memory to evaluate than to train."""

_GRAPH = "evaluate.onnx"

Totals = list[Array]
"""Of each of the plan's metrics, as its graph sums them over examples, in float64."""


class Evaluator:
    """The plan's evaluation graph, open, for as many models as there are. Raises `BadPlan`,
    `OutOfMemory`."""

    def __init__(self, manifest: Manifest, folder: Path, threads: int) -> None:
        self._metrics = manifest.metrics
        self._names = [f"metric/{m.name}" for m in manifest.metrics]
        self._session = open_session(folder / _GRAPH, threads)
        self._taken = {i.name for i in self._session.get_inputs()}

    def totals(self, weights: Weights, examples: Examples, batch: int = BATCH) -> Totals:
        """Over at least one example, so many at a time. Totals of parts add up to those of the
        whole, which metrics do not. Raises `BadPlan`, `CannotRun`, `OutOfMemory`."""
        totals = [np.zeros(m.totals) for m in self._metrics]
        own = {n: a for n, a in weights.items() if n in self._taken}
        for start in range(0, len(examples), batch):
            part = slice(start, start + batch)
            feed = own | {
                n: np.ascontiguousarray(a[part])
                for n, a in examples.arrays.items()
                if n in self._taken
            }
            try:
                found = self._session.run(self._names, feed)
            except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
                raise explained(_GRAPH, error) from None
            for name, total, more in zip(self._names, totals, found, strict=True):
                if np.shape(more) != total.shape:
                    raise BadPlan(f"{_GRAPH}: {name} is {np.shape(more)}, not {total.shape}")
                total += more
        return totals


def metrics_of(manifest: Manifest, totals: Totals, examples: int) -> dict[str, float]:
    """The plan's metrics, from their totals over so many examples."""
    return {
        m.name: m.value(total.ravel().tolist() if m.totals else float(total), examples)
        for m, total in zip(manifest.metrics, totals, strict=True)
    }


def evaluate(
    manifest: Manifest, folder: Path, weights: Weights, examples: Examples, threads: int
) -> dict[str, float]:
    """The plan's metrics of `weights` over at least one example. Raises `BadPlan`,
    `CannotRun`, `OutOfMemory`."""
    totals = Evaluator(manifest, folder, threads).totals(weights, examples)
    return metrics_of(manifest, totals, len(examples))
