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
_SMALL = 1 << 12  # weights of a parameter that is not worth looking into
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
            scale = step_of(largest, _LEVELS)
            _check_range(name, scale)
            coded[f"scale/{name}"] = np.asarray(scale, FLOAT32)
            coded[f"q/{name}"] = _quantise(values, scale, rng)
        return coded

    def decode(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> Delta:
        return _Steps(coded, parameters)


class _Steps(Delta):
    """Numbers of steps, and how large a step is. Where few weights changed these alone are kept:
    then the coded form, ten times as large, is not."""

    def __init__(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> None:
        super().__init__(parameters)
        self._scales: dict[str, np.float32] = {}
        self._few: dict[str, Few] = {}
        self._steps: dict[str, Array] = {}
        for p in parameters:
            self._scales[p.name] = scale = _scale(coded, p.name)
            steps = coded[f"q/{p.name}"].reshape(-1)
            if steps.size < _SMALL:
                self._steps[p.name] = steps.copy()
            elif np.count_nonzero(steps) * _FEW > steps.size:
                self._steps[p.name] = steps
            else:
                self._few[p.name] = _few(steps, scale)

    def stretch(self, name: str, start: int, stop: int, room: Vector32) -> Vector32:
        few = self.few(name, start, stop)
        if few is not None:
            room.fill(0)
            room[few.indices] = few.values
            return room
        np.copyto(room, self._steps[name][start:stop])  # to convert and scale at once is slower
        return np.multiply(room, self._scales[name], out=room)

    def bound(self, name: str) -> float:
        scale = float(self._scales[name])
        few = self._few.get(name)
        some = self._steps[name].any() if few is None else few.indices.size
        return scale * (_LEVELS + 1) if some else 0.0

    def few(self, name: str, start: int, stop: int) -> Few | None:
        few = self._few.get(name)
        if few is None:
            return None
        first, last = few.indices.searchsorted((start, stop))
        indices = few.indices[first:last]
        return Few(indices - start if start else indices, few.values[first:last])


def step_of(reach: float, levels: int) -> np.float32:
    """How large a step is, when so many of them are to reach so far."""
    found = np.float32(reach / levels)
    if float(found) * levels < reach:  # tiny values lose the last bits of a float32
        found = np.nextafter(found, np.float32(np.inf))
    return found


def scaled(coded: Mapping[str, Array], name: str) -> Vector32:
    """The values of one tensor, of its shape. Raises `WireError` as `Int8.decode` does."""
    values = coded[f"q/{name}"].astype(FLOAT32)
    values *= _scale(coded, name)
    return values


def scaled_bound(coded: Mapping[str, Array], name: str) -> float:
    """A bound of |those values|; 0 when all are zero. Raises `WireError` as `scaled` does."""
    scale = float(_scale(coded, name))
    return scale * (_LEVELS + 1) if coded[f"q/{name}"].any() else 0.0


def _scale(coded: Mapping[str, Array], name: str) -> np.float32:
    scale = np.float32(coded[f"scale/{name}"])
    if not scale >= 0:
        raise WireError(Rule.BAD_FORMAT, f"the scale of {name!r} is {scale}")
    _check_range(name, scale)
    return scale


def _few(steps: Array, scale: np.float32) -> Few:
    """Those that are not zero. Eight at a time first: to find them one by one takes twice as
    long."""
    eights = np.zeros(-(-steps.size // 8), np.uint64)
    eights.view(_INT8)[: steps.size] = steps
    some = np.flatnonzero(eights != 0)
    near = eights[some].view(_INT8)
    at = np.flatnonzero(near.view(np.bool_))  # as they are, bytes take three times as long
    values = near[at].astype(FLOAT32)
    values *= scale
    return Few((some[at >> 3] << 3) + (at & 7), values)


def _check_range(name: str, scale: np.float32) -> None:
    """Every 8-bit integer times the scale must be a finite float32."""
    if not float(scale) * (_LEVELS + 1) <= _LARGEST:
        raise WireError(Rule.NOT_FINITE, f"the scale of {name!r} is {scale}")


def _quantise(values: Array, scale: np.float32, rng: np.random.Generator) -> Array:
    if scale == 0:
        return np.zeros(values.shape, _INT8)
    steps = np.asarray(rng.random(values.shape, dtype=np.float32))
    steps += values / scale
    np.floor(steps, out=steps)
    # Division in float32 may land a hair beyond the last level.
    return np.clip(steps, -_LEVELS, _LEVELS, out=steps).astype(_INT8)
