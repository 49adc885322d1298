"""Mean and variance of each feature over the whole fleet.

With the `origin` o, the mean that the round before found, a device sums

    sums = sum of (x - o),    squares = sum of (x - o)^2,    counts = its examples

and with the means of these over the devices, divided by their mean count,

    mean = o + sums,    variance = squares - sums^2.

In the first round o is 0, and the variance of features that vary little where they are large drowns
in their squares: it is right from the second round on.

The loss is the Gaussian negative log-likelihood of an example, the mean over its features.
"""

import math
from typing import ClassVar

import numpy as np

from coordinator.compiler.graph import FLOAT, Array, Emitter
from coordinator.compiler.options import statistics as options
from coordinator.compiler.statistics.places import averages, counted, kept_on
from coordinator.compiler.statistics.statistic import Statistic, Step, Tensors
from coordinator.compiler.statistics.wide import SCALES, narrowed, widened

_WIDE = ("origin", "sums", "squares")


class Moments(Statistic):
    """Parameters: `origin`, `sums`, `squares` [4, *shape], each wide; the scalar `counts`. The
    state holds the deviation that the round before found, for the loss."""

    counts = "counts"
    outputs: ClassVar[tuple[str, ...]] = ("standardised", "mean", "variance")

    def __init__(self, section: options.Moments) -> None:
        self._section = section
        self._rank = len(section.shape)
        self.state = {"deviation": section.shape}

    def initial(self) -> dict[str, Array]:
        shape = (len(SCALES), *self._section.shape)
        found = {name: np.zeros(shape, np.float32) for name in _WIDE}
        return found | {"counts": np.zeros((), np.float32)}

    def step(self, emit: Emitter, x: str, was: Tensors, first: str) -> Step:
        held = self._narrow(emit, was)
        origin = emit.op("Where", first, self._mean(emit, held), held["origin"])
        deviation = emit.op("Where", first, self._deviation(emit, held), was["deviation"])
        away = emit.op("Sub", x, origin)
        new = {"origin": origin}
        for name, each in (("sums", away), ("squares", emit.op("Mul", away, away))):
            added = emit.op("ReduceSum", each, emit.ints(0), keepdims=0)
            new[name] = kept_on(emit, first, held[name], added)
        values = {name: widened(emit, value, self._rank) for name, value in new.items()}
        values["counts"] = kept_on(emit, first, was["counts"], _examples(emit, x))
        losses = self._unlikely(emit, emit.op("Div", away, deviation), deviation)
        return Step(emit.op("ReduceMean", losses, keepdims=0), values, {"deviation": deviation})

    def total(self, emit: Emitter, x: str, now: Tensors) -> str:
        held = self._narrow(emit, now)
        deviation = self._deviation(emit, held)
        losses = self._unlikely(emit, self._standardised(emit, x, held, deviation), deviation)
        total = emit.op("ReduceSum", losses, keepdims=0)
        return emit.op("Mul", total, emit.const(1 / self._section.features))

    def model(self, emit: Emitter, x: str, now: Tensors) -> dict[str, str]:
        held = self._narrow(emit, now)
        return {
            "standardised": self._standardised(emit, x, held, self._deviation(emit, held)),
            "mean": self._mean(emit, held),
            "variance": self._variance(emit, held),
        }

    def _narrow(self, emit: Emitter, now: Tensors) -> dict[str, str]:
        found = {name: narrowed(emit, now[name], self._rank) for name in _WIDE}
        return found | {"counts": now["counts"]}

    def _drift(self, emit: Emitter, held: Tensors) -> str:
        """How far the mean is from the origin."""
        return averages(emit, held["sums"], held["counts"])

    def _mean(self, emit: Emitter, held: Tensors) -> str:
        return emit.op("Add", held["origin"], self._drift(emit, held))

    def _variance(self, emit: Emitter, held: Tensors) -> str:
        """1 before the first round, so that standardising changes nothing."""
        drift = self._drift(emit, held)
        squares = averages(emit, held["squares"], held["counts"])
        found = emit.op("Sub", squares, emit.op("Mul", drift, drift))
        found = emit.op("Max", found, emit.const(0.0))
        return emit.op("Where", counted(emit, held["counts"]), found, emit.const(1.0))

    def _deviation(self, emit: Emitter, held: Tensors) -> str:
        epsilon = emit.const(self._section.epsilon)
        return emit.op("Sqrt", emit.op("Add", self._variance(emit, held), epsilon))

    def _standardised(self, emit: Emitter, x: str, held: Tensors, deviation: str) -> str:
        # Not x - mean: the mean in float32 has lost what is small beside the origin.
        away = emit.op("Sub", emit.op("Sub", x, held["origin"]), self._drift(emit, held))
        return emit.op("Div", away, deviation)

    @staticmethod
    def _unlikely(emit: Emitter, standardised: str, deviation: str) -> str:
        """-log of the normal density of each feature."""
        half = emit.op("Mul", emit.op("Mul", standardised, standardised), emit.const(0.5))
        rest = emit.op("Add", emit.op("Log", deviation), emit.const(math.log(2 * math.pi) / 2))
        return emit.op("Add", half, rest)


def _examples(emit: Emitter, x: str) -> str:
    """How many are in a batch, a scalar."""
    size = emit.op("Cast", emit.op("Shape", x, start=0, end=1), to=FLOAT)
    return emit.op("Squeeze", size, emit.ints(0))
