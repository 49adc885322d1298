"""The random numbers that a plan's training takes: dropout's. Runs in the training child only."""

from collections.abc import Iterable

import numpy as np

from wire.checkpoint import FLOAT32
from wire.plan import Draw
from wire.tensors import Array

_DRAWS = 0x64726177
"""Sets these numbers apart from the shuffling's, whose generator begins with the seed alone."""


def drawn(draws: Iterable[Draw], seed: int, step: int, batch: int) -> dict[str, Array]:
    """The numbers for one step, by name: float32 [batch, *shape], uniform in [0, 1).

    They depend on nothing but the assignment's seed, the number of the step and the batch's size:
    so a training that was stopped goes on with the numbers that it would have had.
    """
    rng = np.random.default_rng((seed, step, _DRAWS))
    return {d.name: rng.random((batch, *d.shape), dtype=FLOAT32) for d in draws}
