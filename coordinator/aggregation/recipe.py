"""How much of an update goes into a sum: its weight, and by what its change is multiplied.

A lying device controls `examples`, `steps` and its own change. The caps here keep each of them
from being worth more than the task allows.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from coordinator.aggregation.layout import Layout, Vector32
from coordinator.aggregation.options import FedNova, Scaffold, Streaming
from wire.codecs import Whole

EFFECT = 1 << 8
_MANTISSA = 1 << 16
_ANY_STEPS = 1 << 31


class Contribution(NamedTuple):
    """A decoded update: the change of each weight, the examples and optimiser steps that the
    device claims (1 at least), and how many versions its base model was behind (0: on time)."""

    delta: Mapping[str, Vector32]
    examples: int
    steps: int
    staleness: int


class Share(NamedTuple):
    """What an update counts for.

    `examples` are those it counts for, `weight` what it adds to the denominator, `work` the weight
    times its local effect (FedNova) in whole parts of 1 / `EFFECT`, `factor` what its change is
    multiplied by.
    """

    examples: int
    weight: int
    work: int
    factor: float


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """The options that decide how updates are summed; sums of different ones do not mix."""

    uniform: bool
    max_examples: int
    max_norm: float | None
    staleness_exponent: float
    normalised: bool = False
    momentum: float = 0.0
    max_steps: int = 1

    @classmethod
    def of(cls, options: Streaming, staleness_exponent: float) -> "Recipe":
        """That of a task."""
        found = cls(
            uniform=options.by == "uniform",
            max_examples=options.max_examples,
            max_norm=options.max_norm,
            staleness_exponent=staleness_exponent,
        )
        if not isinstance(options, FedNova | Scaffold):
            return found
        return msgspec.structs.replace(
            found,
            normalised=True,
            momentum=options.momentum if isinstance(options, FedNova) else 0.0,
            max_steps=options.max_steps or _ANY_STEPS,
        )

    @staticmethod
    def steps_of(work: int, weight: int) -> float:
        """The mean local effect, of sums of `Share.work` and `Share.weight`: of plain SGD, the mean
        of the steps."""
        return work / (EFFECT * weight)

    def weight(self, examples: int) -> int:
        """The weight of an update that claims so many examples."""
        return 1 if self.uniform else min(examples, self.max_examples)

    def share(self, update: Contribution, layout: Layout) -> Share:
        """What this update counts for."""
        weight = self.weight(update.examples)
        effect = local_effect(min(update.steps, self.max_steps), self.momentum)
        factor = weight * staleness_factor(update.staleness, self.staleness_exponent)
        if self.max_norm is not None:
            factor *= clip_factor(update.delta, layout, self.max_norm)
        if self.normalised:
            factor /= effect
        work = weight * round(effect * EFFECT)
        return Share(min(update.examples, self.max_examples), weight, work, factor)

    def digest(self, layout: Layout) -> bytes:
        """16 bytes that name the recipe and the parameters it is for."""
        what: Any = [self, [(p.name, p.shape) for p in layout.parameters]]
        return hashlib.sha256(msgspec.json.encode(what)).digest()[:16]


def staleness_factor(staleness: int, exponent: float) -> float:
    """(1 + s)^-exponent for an update whose base is s versions old (Nguyen et al., 2022)."""
    return coarse((1.0 + staleness) ** -exponent)


def clip_factor(delta: Mapping[str, Vector32], layout: Layout, most: float) -> float:
    """min(1, most / norm), rounded down: times the change, its norm is at most `most`."""
    norm = norm_of(delta, layout)
    # Not finite: the sum, which looks at every weight, says which rule that breaks.
    return coarse(most / norm, math.floor) if most < norm < math.inf else 1.0


def local_effect(steps: int, momentum: float) -> float:
    """By how many gradients the change of so many SGD steps is made (Wang et al., 2020).

    Without momentum, as many as there are steps. With momentum r, the early gradients are applied
    again and again: (n - r (1 - r^n) / (1 - r)) / (1 - r).
    """
    if momentum == 0:
        return float(steps)
    again = momentum * (1 - momentum**steps) / (1 - momentum)
    return coarse((steps - again) / (1 - momentum))


def norm_of(delta: Mapping[str, Vector32], layout: Layout) -> float:
    """The Euclidean norm of a change.

    The same on every machine, unlike a BLAS's: squares of float32 are exact in float64, numpy adds
    them in a fixed order, and `fsum` rounds once.
    """
    sums = []
    for piece in layout.pieces():
        values = piece.of(delta).astype(np.float64)
        np.multiply(values, values, out=values)
        sums.append(float(values.sum()))
    if isinstance(delta, Whole):
        delta.forget()  # the norms of many are found before any is summed
    return math.sqrt(math.fsum(sums))


def coarse(value: float, rounded: Callable[[float], int] = round) -> float:
    """`value` with 16 bits of mantissa.

    The last bits of a power depend on the machine's mathematical library; a sum must not.
    """
    mantissa, exponent = math.frexp(value)
    return math.ldexp(rounded(mantissa * _MANTISSA) / _MANTISSA, exponent)
