"""Aggregation: FedAvg's running sum. Memory is that of the model, not of the number of devices.

McMahan et al., 2017, algorithm 1: w <- w + sum_k (n_k / n) (w_k - w), n_k the examples of device k.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from wire.checkpoint import FLOAT32, Weights
from wire.errors import Rule, WireError
from wire.plan import Parameter


class RunningSum:
    """The weighted sum of the deltas of a round, in float64."""

    def __init__(self, parameters: tuple[Parameter, ...], max_examples: int) -> None:
        self._max_examples = max_examples
        self._sums = {p.name: np.zeros(p.shape, np.float64) for p in parameters}
        self.updates = 0
        self.weight = 0

    def add(self, delta: Mapping[str, npt.NDArray[np.float32]], examples: int) -> None:
        """Fold in one update of `examples` examples (its weight, capped)."""
        weight = min(examples, self._max_examples)
        for name, total in self._sums.items():
            # One temporary of the tensor's size: float32 times a Python float would stay float32
            # and lose the small updates of a large round.
            total += np.multiply(delta[name], weight, dtype=np.float64)
        self.updates += 1
        self.weight += weight

    def apply(self, base: Mapping[str, npt.NDArray[np.float32]]) -> Weights:
        """The next model: `base` plus the weighted mean of the deltas, float32.

        Raises `WireError` (not_finite) when the mean takes a weight out of float32's range.
        """
        with np.errstate(over="ignore"):
            new = {
                name: (base[name] + total / self.weight).astype(FLOAT32)
                for name, total in self._sums.items()
            }
        for name, values in new.items():
            if not np.isfinite(values).all():
                raise WireError(Rule.NOT_FINITE, f"the new {name!r} is out of float32's range")
        return new
