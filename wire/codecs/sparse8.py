"""Deltas of which one weight in eight is sent: about 0.1 bytes a weight, zstd aside."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from wire.checkpoint import Weights
from wire.codecs.base import Delta, Few, Vector32
from wire.codecs.int8 import Int8, scaled
from wire.errors import Rule, WireError
from wire.plan import Parameter
from wire.tensors import Array, Spec

_BYTE = np.dtype("u1")
_FARTHEST = 255  # from one place to the next
_ONE_IN = 8
_FEWEST = 64  # are always sent: a small model is sent as it is


class Sparse8:
    """A random sample of the weights, larger changes likelier, each as an 8-bit integer.

    The model is one flat vector x of n weights, its parameters in the order of their names;
    k = n / 8 of them are sent. Weight i is taken with probability p_i = min(1, |x_i| / c), c such
    that the p_i add up to k, and its value is x_i / p_i. Unbiased: E = x; no other sampling of k
    weights on average has less variance (Wangni et al., 2018, algorithm 1). Just k are taken:
    systematic sampling, one random number (Madow, 1949). The values are then coded as `Int8` does,
    unbiased, too.

    Where the weights lie is told by the gaps between them, a byte each; where one is wider, weights
    that are sent as unchanged break it. Places that are left over have no gap and no value.
    """

    name = "sparse8"

    def schema(self, parameters: tuple[Parameter, ...]) -> dict[str, Spec]:
        places = _places(sum(p.size for p in parameters))
        return {"gap": Spec(_BYTE, (places,)), **_VALUES.schema(_kept(places))}

    def encode(self, delta: Weights, rng: np.random.Generator) -> dict[str, Array]:
        flat = np.concatenate([delta[name].reshape(-1) for name in sorted(delta)])
        indices, values = _sample(flat, _taken(flat.size), rng)
        gaps, kept = _broken(np.diff(indices, prepend=-1), values, _places(flat.size))
        return {"gap": gaps, **_VALUES.encode({"kept": kept}, rng)}

    def decode(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> Delta:
        return _Taken(coded, parameters)


_VALUES = Int8()


def _taken(size: int) -> int:
    """How many of `size` weights are sent."""
    return min(size, max(_FEWEST, -(-size // _ONE_IN)))


def _places(size: int) -> int:
    """How many have room: those and one for each gap that has to be broken, at most."""
    return _taken(size) + size // _FARTHEST


def _kept(places: int) -> tuple[Parameter, ...]:
    return (Parameter(name="kept", shape=(places,)),)


def _broken(
    gaps: npt.NDArray[np.intp], values: Vector32, places: int
) -> tuple[npt.NDArray[np.uint8], Vector32]:
    """Gaps of a byte each, and the values at their ends, in this many places."""
    reached = np.cumsum((gaps - 1) // _FARTHEST + 1)
    ends = reached - 1
    short = np.zeros(places, np.uint8)
    short[: reached.max(initial=0)] = _FARTHEST
    short[ends] = (gaps - 1) % _FARTHEST + 1
    kept = np.zeros(places, np.float32)
    kept[ends] = values
    return short, kept


def _used(gaps: Array) -> int:
    """How many places come before the first without a gap."""
    lowest = int(gaps.argmin()) if gaps.size else 0
    return gaps.size if gaps.size and gaps[lowest] else lowest


class _Taken(Delta):
    """Where the weights lie that were sent, and by how much they changed."""

    def __init__(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> None:
        super().__init__(parameters)
        self._starts: dict[str, int] = {}
        size = 0
        for p in sorted(parameters, key=lambda p: p.name):
            self._starts[p.name] = size
            size += p.size
        gaps = coded["gap"]
        used = _used(gaps)
        if gaps[used:].any() or coded["q/kept"][used:].any():
            raise WireError(Rule.BAD_FORMAT, "a gap between weights is below 1")
        indices = np.cumsum(gaps[:used], dtype=np.intp)
        if used and int(indices[-1]) > size:
            raise WireError(Rule.BAD_FORMAT, f"a weight beyond the last of {size}")
        indices -= 1
        values, self._bound = scaled(coded, "kept")
        self._few = Few(indices, values[:used])

    def stretch(self, name: str, start: int, stop: int, room: Vector32) -> Vector32:
        few = self.few(name, start, stop)
        room.fill(0)
        room[few.indices] = few.values
        return room

    def bound(self, name: str) -> float:
        return self._bound  # of them all

    def few(self, name: str, start: int, stop: int) -> Few:
        begin = self._starts[name] + start
        first, last = self._few.indices.searchsorted((begin, begin + stop - start))
        indices = self._few.indices[first:last]
        return Few(indices - begin if begin else indices, self._few.values[first:last])

    def few_of_all(self) -> Few:
        return self._few


def _sample(
    flat: Vector32, taken: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], Vector32]:
    """Which `taken` of the weights are sent, ascending, and as what."""
    sizes = np.abs(flat, dtype=np.float64)
    threshold = _threshold(sizes, taken)
    if threshold > 0:
        chances = np.minimum(sizes / threshold, 1.0)
    else:  # all that are not zero can be sent
        chances = (sizes > 0).astype(np.float64)
    chosen = np.zeros(flat.size, np.bool_)
    ticks = rng.random() + np.arange(taken)
    at = np.cumsum(chances).searchsorted(ticks, side="right")
    chosen[at[at < flat.size]] = True
    chosen &= chances > 0
    values = np.zeros(flat.size, np.float32)
    values[chosen] = flat[chosen] / chances[chosen]
    short = taken - int(np.count_nonzero(chosen))
    if short > 0:  # too few are not zero, or rounding: zeros fill the places
        chosen[np.flatnonzero(~chosen)[:short]] = True
    indices = np.flatnonzero(chosen)
    return indices, values[indices]


def _threshold(sizes: npt.NDArray[np.float64], taken: int) -> float:
    """c such that min(1, size / c) adds up to `taken`; 0 when no more than that are not zero."""
    if taken >= sizes.size:
        return 0.0
    largest = np.sort(np.partition(sizes, sizes.size - taken)[-taken:])[::-1]
    before = np.concatenate(([0.0], np.cumsum(largest)))
    rest = sizes.sum() - before[:-1]  # without the t largest
    places = taken - np.arange(taken)
    # The t largest are taken for certain; the next is not, and so c is where it begins.
    below = np.flatnonzero(largest * places < rest)
    return float(rest[below[0]] / places[below[0]]) if below.size else 0.0
