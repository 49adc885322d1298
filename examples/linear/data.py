"""Three sets of examples that scikit-learn brings along, dealt out to devices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn import datasets

from fleet.simulation import splits
from fleet.simulation.splits import Rows
from wire.tensors import Array

DEVICES = 20

_TEST = 0.25
_SKEW = 0.5  # of the Dirichlet draw by which labels are dealt out


@dataclass(frozen=True)
class Dealt:
    """A set: features float32 [n, features], targets [n], which rows each device has, and which
    are the test's, on no device."""

    x: Array
    y: Array
    shares: list[Rows]
    test: Rows

    @property
    def all(self) -> Rows:
        """What all devices have together."""
        return np.concatenate(self.shares)


def diabetes(seed: int) -> Dealt:
    """442 patients, 10 measurements; how far the disease went in a year."""
    return _dealt(datasets.load_diabetes(scaled=False), seed, skewed=False)


def cancer(seed: int) -> Dealt:
    """569 tumours, 30 measurements; malignant or benign, some devices have mostly one kind."""
    return _dealt(datasets.load_breast_cancer(), seed, skewed=True)


def digits(seed: int) -> Dealt:
    """1,797 handwritten digits of 8 x 8 pixels; most devices have some of the ten."""
    return _dealt(datasets.load_digits(), seed, skewed=True)


SETS: dict[str, Callable[[int], Dealt]] = {
    "diabetes": diabetes,
    "cancer": cancer,
    "digits": digits,
}


def _dealt(found: Any, seed: int, *, skewed: bool) -> Dealt:
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(found.target))
    held = round(_TEST * len(order))
    test, rest = order[:held], order[held:]
    if skewed:
        chosen = splits.dirichlet(found.target[rest], DEVICES, _SKEW, rng)
    else:
        chosen = splits.alike(len(rest), DEVICES, rng)
    return Dealt(found.data.astype(np.float32), found.target, [rest[rows] for rows in chosen], test)
