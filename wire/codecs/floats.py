"""Deltas as floating point: 4 or 2 bytes a weight, zstd aside."""

from collections.abc import Mapping

import numpy as np

from wire.checkpoint import Weights, schema
from wire.codecs.base import Delta, Vector32
from wire.errors import Rule, WireError
from wire.plan import Parameter
from wire.tensors import Array, Spec

_FLOAT16 = np.dtype("<f2")
_LARGEST16 = float(np.finfo(_FLOAT16).max)


class Float32:
    """The delta as it is: 32 bits a weight, no error."""

    name = "float32"

    def schema(self, parameters: tuple[Parameter, ...]) -> dict[str, Spec]:
        return schema(parameters)

    def encode(self, delta: Weights, rng: np.random.Generator) -> dict[str, Array]:
        return dict(delta)

    def decode(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> Weights:
        return dict(coded)


class Float16:
    """IEEE half precision, rounded to nearest: 16 bits a weight.

    The relative error is at most 2^-11 down to 6.1e-5, the absolute error at most 2^-25 below it.
    Biased by that rounding. Values beyond 65504 are out of range.
    """

    name = "float16"

    def schema(self, parameters: tuple[Parameter, ...]) -> dict[str, Spec]:
        return {p.name: Spec(_FLOAT16, p.shape) for p in parameters}

    def encode(self, delta: Weights, rng: np.random.Generator) -> dict[str, Array]:
        with np.errstate(over="ignore"):
            coded = {name: values.astype(_FLOAT16) for name, values in delta.items()}
        for name, values in coded.items():
            if not np.isfinite(values).all():
                raise WireError(Rule.NOT_FINITE, f"{name!r} changed by more than 65504")
        return dict(coded)

    def decode(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> Delta:
        return _Half(coded, parameters)


class _Half(Delta):
    """Half precision until it is asked for."""

    def __init__(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> None:
        super().__init__(parameters)
        self._values = {p.name: coded[p.name].reshape(-1) for p in parameters}

    def stretch(self, name: str, start: int, stop: int, room: Vector32) -> Vector32:
        np.copyto(room, self._values[name][start:stop])
        return room

    def bound(self, name: str) -> float:
        return _LARGEST16 if self._values[name].any() else 0.0
