"""Small models, updates and sums for the tests beside this file."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from coordinator.aggregation import Aggregation, Contribution, FedAvg, Sum
from coordinator.aggregation.layout import Layout
from coordinator.aggregation.options import Streaming
from coordinator.aggregation.recipe import Recipe
from wire.checkpoint import Weights
from wire.plan import Parameter

PARAMETERS = (  # in the order of their names, as a sum has them
    Parameter(name="a", shape=(7, 5)),
    Parameter(name="b", shape=(5,)),
    Parameter(name="c", shape=()),
    Parameter(name="d", shape=(2, 3)),
)
SIZE = sum(p.size for p in PARAMETERS)


def unflat(flat: Sequence[float], parameters: tuple[Parameter, ...] = PARAMETERS) -> Weights:
    """A flat vector as a delta."""
    values, found, start = np.asarray(flat, np.float32), {}, 0
    for p in parameters:
        found[p.name] = values[start : start + p.size].reshape(p.shape).copy()
        start += p.size
    return found


def flat(weights: Weights) -> np.ndarray:
    """A delta as a flat vector."""
    return np.concatenate([values.reshape(-1) for values in weights.values()])


def contribution(seed: int = 0, *, examples=10, steps=5, staleness=0, size=0.1) -> Contribution:
    """An update of normally distributed changes."""
    values = np.random.default_rng(seed).normal(0, size, SIZE)
    return Contribution(unflat(values), examples, steps, staleness)


def empty(options: Aggregation | None = None, *, block: int = 8, exponent: float = 0.5) -> Sum:
    """A sum over `PARAMETERS` in small blocks, so that there are many, and two threads."""
    options = options or FedAvg()
    assert isinstance(options, Streaming)
    return Sum(Recipe.of(options, exponent), Layout(PARAMETERS, block))


def total_of(updates: Sequence[Contribution], options: Aggregation | None = None, **keys) -> Sum:
    """The sum of these."""
    found = empty(options, **keys)
    for update in updates:
        found.add(update)
    return found


def whole(total: Sum) -> list[int]:
    """The numbers of a sum."""
    found = []
    for cell in total.cells:
        high, low = cell.limbs()
        found += [(int(h) << 32) + int(c) for h, c in zip(high, low, strict=True)]
    return found


def expected(updates: Sequence[Contribution], factors: Sequence[float]) -> list[int]:
    """The same by Python's whole numbers: the definition, one weight at a time."""
    numbers = [0] * SIZE
    for update, factor in zip(updates, factors, strict=True):
        scale = np.float32(factor * 2**32)
        for index, value in enumerate(flat(update.delta)):
            numbers[index] += int(np.rint(np.float32(value * scale)))
    return numbers


MAGNITUDES = st.sampled_from([1e-30, 1e-9, 1e-3, 1.0, 300.0, 1e5, 2e7])


@st.composite
def contributions(draw: st.DrawFn) -> Contribution:
    """Updates of all sizes, alike and unlike, with ties of the rounding among them."""
    magnitude = draw(MAGNITUDES)
    values = np.random.default_rng(draw(st.integers(0, 50))).normal(0, magnitude / 6, SIZE)
    values = np.clip(values, -magnitude, magnitude)
    if draw(st.booleans()):
        ties = [magnitude, -magnitude, 2.0**-33, -(2.0**-33), 3 * 2.0**-33]
        values[:] = draw(st.sampled_from(ties))
    return Contribution(
        unflat(values),
        draw(st.sampled_from([1, 3, 600, 10_000, 1 << 31])),
        draw(st.integers(1, 1000)),
        draw(st.sampled_from([0, 0, 1, 3, 17])),
    )
