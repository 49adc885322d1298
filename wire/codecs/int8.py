"""Deltas as 8-bit integers: 1 byte a weight, zstd aside."""

from collections.abc import Mapping

import numpy as np

from wire.checkpoint import FLOAT32, Weights
from wire.codecs.base import Delta, Few, Vector32
from wire.errors import Rule, WireError
from wire.plan import Parameter
from wire.tensors import Array, Spec

_INT8 = np.dtype("i1")
_LEVELS = 127
_FEW = 12  # of so many weights one at most changed, where taking them one by one pays
_LARGEST = float(np.finfo(np.float32).max)


class Int8:
    """Uniform quantisation with one scale a tensor and stochastic rounding.

    scale = max|x| / 127, rounded up; q = floor(x / scale + u), u uniform in [0, 1). Unbiased:
    E[q scale] = x. The error of a value is below one scale, give or take float32's rounding; its
    variance is at most scale^2 / 4 (QSGD, Alistarh et al., 2017, with the maximum norm).
    """

    name = "int8"

    def schema(self, parameters: tuple[Parameter, ...]) -> dict[str, Spec]:
        found: dict[str, Spec] = {}
        for p in parameters:
            found[f"q/{p.name}"] = Spec(_INT8, p.shape)
            found[f"scale/{p.name}"] = Spec(FLOAT32, ())
        return found

    def encode(self, delta: Weights, rng: np.random.Generator) -> dict[str, Array]:
        coded: dict[str, Array] = {}
        for name, values in delta.items():
            largest = float(np.abs(values).max(initial=0.0))
            scale = np.float32(largest / _LEVELS)
            if float(scale) * _LEVELS < largest:  # tiny values lose the last bits of a float32
                scale = np.nextafter(scale, np.float32(np.inf))
            _check_range(name, scale)
            coded[f"scale/{name}"] = np.asarray(scale, FLOAT32)
            coded[f"q/{name}"] = _quantise(values, scale, rng)
        return coded

    def decode(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> Delta:
        return _Steps(coded, parameters)


class _Steps(Delta):
    """Numbers of steps, and how large a step is."""

    def __init__(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> None:
        super().__init__(parameters)
        self._steps = {p.name: coded[f"q/{p.name}"].reshape(-1) for p in parameters}
        self._scales = {p.name: np.float32(coded[f"scale/{p.name}"]) for p in parameters}
        for name, scale in self._scales.items():
            if scale < 0:
                raise WireError(Rule.BAD_FORMAT, f"the scale of {name!r} is {scale}")
            _check_range(name, scale)

    def stretch(self, name: str, start: int, stop: int, room: Vector32) -> Vector32:
        np.copyto(room, self._steps[name][start:stop])  # to convert and scale at once is slower
        return np.multiply(room, self._scales[name], out=room)

    def bound(self, name: str) -> float:
        scale = float(self._scales[name])
        changed = scale and self._steps[name].view(np.bool_).any()  # looks no further than the first
        return scale * (_LEVELS + 1) if changed else 0.0

    def few(self, name: str, start: int, stop: int) -> Few | None:
        steps = self._steps[name][start:stop]
        if np.count_nonzero(steps) * _FEW > steps.size:
            return None
        indices = np.flatnonzero(steps.view(np.bool_))  # a byte that is not 0 is true; faster
        values = steps[indices].astype(FLOAT32)
        values *= self._scales[name]
        return Few(indices, values)


def _check_range(name: str, scale: np.float32) -> None:
    """Every 8-bit integer times the scale must be a finite float32."""
    if float(scale) * (_LEVELS + 1) > _LARGEST:
        raise WireError(Rule.NOT_FINITE, f"the scale of {name!r} is {scale}")


def _quantise(values: Array, scale: np.float32, rng: np.random.Generator) -> Array:
    if scale == 0:
        return np.zeros(values.shape, _INT8)
    steps = np.asarray(rng.random(values.shape, dtype=np.float32))
    steps += values / scale
    np.floor(steps, out=steps)
    # Division in float32 may land a hair beyond the last level.
    return np.clip(steps, -_LEVELS, _LEVELS, out=steps).astype(_INT8)
