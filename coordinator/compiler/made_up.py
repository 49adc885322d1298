"""Made-up examples for a dry run: of the declared types, labels and indices in range."""

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

UNBOUNDED = 2
"""Of integers that index nothing: 0 and 1."""


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """How an input is drawn: integers of 0 <= i < `below`; floats normal, or with `below` whole."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    below: int | None = None


def examples(draws: Iterable[Draw], batch: int, scale: float) -> dict[str, Array]:
    """The same ones each time. `scale` is the deviation of normal inputs."""
    rng = np.random.default_rng(1)
    return {d.name: _array(rng, d, (batch, *d.shape), scale) for d in draws}


def _array(rng: np.random.Generator, draw: Draw, shape: tuple[int, ...], scale: float) -> Array:
    dtype = np.dtype(draw.dtype)
    if draw.below is None:
        return np.asarray(rng.normal(size=shape, scale=scale), dtype)
    values: np.ndarray[Any, Any] = rng.integers(0, draw.below, size=shape)
    if draw.below == UNBOUNDED and len(shape) > 1:
        values[..., 0] = 1  # a mask of nothing at all would divide by zero
    return np.asarray(values, dtype)
