"""Who trains on which engines, and who tests: a split of the engines at random."""

from dataclasses import dataclass

import numpy as np

from edge_agent.examples import Examples
from examples.turbofan.cmapss import DataError, Flights, Numbers, Places

EACH = 4
"""Engines of a node."""
NAIVE = 181.0
"""Cycles that every engine lives, to the naive: the report's figure."""

_TESTED = 5  # one engine of so many


@dataclass(frozen=True)
class Split:
    """All rows as a plan's inputs, `x` [n, 16] and `target` [n, 1], standardised with the
    statistics of the engines that are trained on; and whose they are.

    `nodes` has the rows of each node; the last one's takes no part. `cycles` is how many one unit
    of the target is.
    """

    pool: Examples
    nodes: list[Places]
    tested: Places
    cycles: float

    @property
    def taking_part(self) -> list[Places]:
        """The nodes of the federation."""
        return self.nodes[:-1]

    @property
    def training(self) -> Examples:
        """All rows of all nodes in one place: the non-participant's, too."""
        return self.pool.where(np.concatenate(self.nodes))

    @property
    def test(self) -> Examples:
        """The rows of engines that no node has."""
        return self.pool.where(self.tested)


def split(flights: Flights, seed: int) -> Split:
    """A fifth of the engines test; the others go to nodes of four. Raises `DataError` where there
    are too few for two nodes."""
    order = np.random.default_rng(seed).permutation(flights.engines)
    number = (flights.engines - flights.engines // _TESTED) // EACH
    if number < 2:
        least = 2 * EACH + 1
        raise DataError(f"{flights.engines} engines: two nodes of {EACH}, and a test, take {least}")
    dealt = order[: number * EACH].reshape(number, EACH)
    nodes = [np.flatnonzero(np.isin(flights.engine, engines)) for engines in dealt]
    training = np.concatenate(nodes)
    target, cycles = _standardised(flights.left[:, None], training)
    features, _ = _standardised(flights.features, training)
    return Split(
        pool=Examples({"x": features.astype(np.float32), "target": target.astype(np.float32)}),
        nodes=nodes,
        tested=np.flatnonzero(np.isin(flights.engine, order[number * EACH :])),
        cycles=float(cycles[0]),
    )


def _standardised(values: Numbers, training: Places) -> tuple[Numbers, Numbers]:
    """Of mean 0 and deviation 1 over the training rows, and the deviations."""
    mean, deviation = values[training].mean(axis=0), values[training].std(axis=0)
    deviation = np.where(deviation == 0, 1.0, deviation)
    return (values - mean) / deviation, deviation


def naive(flights: Flights, tested: Places, life: float = NAIVE, *, clipped: bool = False) -> float:
    """The RMSE in cycles of life - cycle, over the rows `tested`. Of an engine that outlives it
    this is below 0, as in the report; `clipped`: 0 then, the better guess."""
    guess = life - flights.cycle[tested]
    if clipped:
        guess = np.maximum(guess, 0.0)
    return float(np.sqrt(np.mean((guess - flights.left[tested]) ** 2)))
