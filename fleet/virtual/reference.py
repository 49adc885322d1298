"""The reference sum: what a round's updates add up to, in whole numbers without rounding."""

import math

import numpy as np

_UNIT = 1 << 32
"""A staleness factor of 1."""


class ReferenceSum:
    """The weighted sum of whole-numbered changes of one weight."""

    def __init__(self, staleness_exponent: float) -> None:
        self._exponent = staleness_exponent
        self._sum, self._weight = 0, 0

    def add(self, value: int, examples: int, staleness: int) -> None:
        """An update of so many examples, so many versions late."""
        self._sum += value * examples * self._factor(staleness)
        self._weight += examples

    def after(self, model: np.float32) -> np.float32:
        """The model that follows: moved by the mean, rounded once."""
        return np.float32(float(model) + self._sum / (self._weight * _UNIT))

    def _factor(self, staleness: int) -> int:
        """(1 + s)^-exponent with 16 bits of mantissa, as a whole number of 2^-32."""
        mantissa, exponent = math.frexp((1 + staleness) ** -self._exponent)
        return int(math.ldexp(round(math.ldexp(mantissa, 16)), exponent + 16))
