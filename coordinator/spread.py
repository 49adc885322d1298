"""How a figure is spread over devices, and what devices gain by a version of their own: pure sums.

The store answers the same of its rows (`coordinator.store.evaluations`), where there may be a
million of them; the simulation, which has the values at hand, asks here.
"""

import math
from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec

Better = Literal["higher", "lower"]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A metric over devices, in its own unit. `mean` is weighted by examples, each device's as
    many as were counted; in all else each device counts once. `deviation` is the standard deviation
    over these devices (not an estimate for others: of one device it is 0); `worst_decile` the mean
    over the worst tenth of them, rounded up to whole devices."""

    devices: int
    examples: int
    mean: float
    deviation: float
    worst_decile: float


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """What devices gain by their personal versions, in the metric's unit; above 0 is better.
    `gaining` of `devices` do better with theirs than with the published one; `median` and `mean`
    are over all of them, each counting once."""

    devices: int
    gaining: int
    median: float
    mean: float


def spread(values: Sequence[tuple[float, int]], better: Better) -> Spread:
    """Over one finite value and number of examples (1 or more) a device. Raises `ValueError` for
    none."""
    if not values:
        raise ValueError("no device's value: a spread is over at least one")
    figures = sorted((value for value, _ in values), reverse=better == "higher")
    examples = sum(count for _, count in values)
    centre = math.fsum(figures) / len(figures)
    worst = figures[-worst_of(len(figures)) :]
    return Spread(
        devices=len(figures),
        examples=examples,
        mean=math.fsum(value * count for value, count in values) / examples,
        deviation=math.sqrt(math.fsum((v - centre) ** 2 for v in figures) / len(figures)),
        worst_decile=math.fsum(worst) / len(worst),
    )


def worst_of(devices: int) -> int:
    """How many devices are the worst tenth of so many: at least one."""
    return -(-devices // 10)


def gain(pairs: Sequence[tuple[float, float]], better: Better) -> Gain:
    """Over one pair a device: the published version's value and the personal one's, both finite.
    Raises `ValueError` for none."""
    if not pairs:
        raise ValueError("no device's personal version: a gain is over at least one")
    sign = 1.0 if better == "higher" else -1.0
    gains = [sign * (personal - published) for published, personal in pairs]
    return Gain(
        devices=len(gains),
        gaining=sum(each > 0 for each in gains),
        median=median(gains),
        mean=math.fsum(gains) / len(gains),
    )
