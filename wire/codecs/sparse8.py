"""Deltas of which one weight in eight is sent, larger ones likelier: about 0.08 bytes a weight."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wire.checkpoint import FLOAT32, Weights
from wire.codecs.base import Delta, Few, Vector32
from wire.codecs.int8 import step_of
from wire.codecs.sampled import Sampled, taken
from wire.errors import Rule, WireError
from wire.plan import Parameter
from wire.tensors import Array, Spec

Bytes = npt.NDArray[np.uint8]

_BYTE, _COUNT = np.dtype("u1"), np.dtype("<i4")
_SKIP = 15  # the step that ends at no weight
_LEVELS = 255
_LARGEST = float(np.finfo(np.float32).max)


class Sparse8:
    """A random sample of the weights, larger changes likelier: most of them are sent as a sign.

    The model is one flat vector x of n weights, its parameters in the order of their names;
    k = n / 8 of them are sent. Weight i is taken with probability p_i = min(1, |x_i| / c), c such
    that the p_i add up to k, and its value is x_i / p_i: sign(x_i) max(c, |x_i|). Unbiased: E = x;
    no other sampling of k weights on average has less variance (Wangni et al., 2018, algorithm 1).
    Just k are taken: systematic sampling, one random number (Madow, 1949).

    What a value is beyond c is told in 255 levels with stochastic rounding, unbiased, too; the
    levels of values that are not beyond are zeros, and zstd packs those away.

    Where the weights lie is told by half a byte for each step from one to the next: 0 to 14 for a
    step of 1 to 15, and 15 for one of 15 that ends at no weight. The first half of all steps is in
    the bytes' low halves, the second in the high ones.
    """

    name = "sparse8"

    def schema(self, parameters: tuple[Parameter, ...]) -> dict[str, Spec]:
        steps = _most_steps(sum(p.size for p in parameters))
        return {
            "base": Spec(FLOAT32, ()),
            "count": Spec(_COUNT, ()),
            "level": Spec(_BYTE, (steps,)),
            "sign": Spec(_BYTE, (-(-steps // 8),)),
            "step": Spec(_BYTE, (-(-steps // 2),)),
            "unit": Spec(FLOAT32, ()),
        }

    def encode(self, delta: Weights, rng: np.random.Generator) -> dict[str, Array]:
        flat = np.concatenate([delta[name].reshape(-1) for name in sorted(delta)])
        indices, sizes = _sample(flat, taken(flat.size), rng)
        steps, ends = _stepwise(np.diff(indices, prepend=-1))
        levels, base, unit = _levels(sizes, rng)
        most = _most_steps(flat.size)
        return {
            "base": np.asarray(base, FLOAT32),
            "count": np.asarray(steps.size, _COUNT),
            "level": _padded(_spread(levels, ends, steps.size), most),
            "sign": _padded(
                np.packbits(_spread(flat[indices] < 0, ends, steps.size)), -(-most // 8)
            ),
            "step": _padded(_halves(steps), -(-most // 2)),
            "unit": np.asarray(unit, FLOAT32),
        }

    def decode(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> Delta:
        return _Steps(coded, parameters)


class _Steps(Sampled):
    """The coded form, looked through, but unpacked only when it is asked for: ten times as
    large."""

    def __init__(self, coded: Mapping[str, Array], parameters: tuple[Parameter, ...]) -> None:
        super().__init__(parameters)
        self._coded = _checked(coded, self.size)
        self.largest = self._coded.bound
        self._unpacked: Few | None = None

    def stretch(self, name: str, start: int, stop: int, room: Vector32) -> Vector32:
        few = self.few(name, start, stop)
        room.fill(0)
        room[few.indices] = few.values
        return room

    def few(self, name: str, start: int, stop: int) -> Few:
        if self._unpacked is None:
            self._unpacked = self._coded.few()
        begin = self.starts[name] + start
        first, last = self._unpacked.indices.searchsorted((begin, begin + stop - start))
        indices = self._unpacked.indices[first:last]
        return Few(indices - begin if begin else indices, self._unpacked.values[first:last])

    def few_of_all(self) -> Few:
        return self._unpacked or self._coded.few()


@dataclass(frozen=True)
class _Coded:
    """`base` and `unit`: what level 0 is, and how much a level is more. Of shape [steps]: `level`;
    and in bytes of 2 and of 8: `step` and `sign`."""

    base: np.float32
    unit: np.float32
    count: int
    level: Bytes
    step: Bytes
    sign: Bytes

    @property
    def bound(self) -> float:
        """No |value| is larger."""
        return _bound(self.base, self.unit)

    @property
    def steps(self) -> Bytes:
        """One a byte."""
        found = np.empty(2 * self.step.size, np.uint8)
        np.bitwise_and(self.step, 15, out=found[: self.step.size])
        np.right_shift(self.step, 4, out=found[self.step.size :])
        return found[: self.count]

    def few(self) -> Few:
        """Where each step ends, and the value there: 0 after a step that ends at no weight."""
        steps = self.steps
        kept = _kept(steps)
        indices = (steps + kept).astype(np.intp)
        indices[:1] -= 1
        np.cumsum(indices, out=indices)
        # 1, -1 or 0 each, in bytes: what is done to floats takes four times as long.
        signs = np.unpackbits(self.sign, count=self.count)
        signs &= kept
        signs += signs
        values = (kept - signs).view(np.int8).astype(np.float32)
        values *= self.base + self.level * self.unit if self.level.any() else self.base
        return Few(indices, values)


def _checked(coded: Mapping[str, Array], size: int) -> _Coded:
    """Raises `WireError` for what is not a change of `size` weights."""
    base, unit = np.float32(coded["base"]), np.float32(coded["unit"])
    count = int(coded["count"])
    if not (base >= 0 and unit >= 0):
        raise WireError(Rule.BAD_FORMAT, f"values of {base} and {unit} a level")
    if not 0 <= count <= coded["level"].size:
        raise WireError(Rule.BAD_FORMAT, f"{count} steps, of {coded['level'].size} at most")
    unused = False
    stretches = []
    for name, used in (("level", count), ("step", -(-count // 2)), ("sign", -(-count // 8))):
        unused |= bool(coded[name][used:].any())
        stretches.append(coded[name][:used])
    found = _Coded(base, unit, count, *stretches)
    if unused:
        raise WireError(Rule.BAD_FORMAT, "something follows the last step")
    if not found.bound <= _LARGEST:
        raise WireError(Rule.NOT_FINITE, f"values of {base} and {unit} a level")
    steps = found.steps
    if (end := int((steps + _kept(steps)).sum(dtype=np.uint32))) > size:
        raise WireError(Rule.BAD_FORMAT, f"the last step ends at weight {end} of {size}")
    return found


def _bound(base: np.float32, unit: np.float32) -> float:
    return (float(base) + _LEVELS * float(unit)) * (1 + 2.0**-20)  # float32's rounding


def _most_steps(size: int) -> int:
    """Those to weights that are sent, and those that end at none, at most."""
    return taken(size) + size // _SKIP


def _kept(steps: Bytes) -> Bytes:
    """1 where a step ends at a weight, else 0. Added to the step it is the step's length."""
    found: Bytes = (steps != _SKIP).view(np.uint8)
    return found


def _stepwise(gaps: npt.NDArray[np.intp]) -> tuple[Bytes, npt.NDArray[np.intp]]:
    """The steps of gaps, one a byte; and which of them end a gap."""
    ends = np.cumsum((gaps - 1) // _SKIP + 1) - 1
    steps = np.full(int(ends.max(initial=-1)) + 1, _SKIP, np.uint8)
    steps[ends] = (gaps - 1) % _SKIP
    return steps, ends


def _halves(steps: Bytes) -> Bytes:
    """Two steps a byte."""
    half = -(-steps.size // 2)
    both = _padded(steps, 2 * half)
    found: Bytes = both[:half] | (both[half:] << np.uint8(4))
    return found


def _levels(sizes: Vector32, rng: np.random.Generator) -> tuple[Bytes, np.float32, np.float32]:
    """The level of each, what level 0 is, and how much a level is more. Unbiased. Raises
    `WireError` when the largest is out of range."""
    if not sizes.size:
        return np.zeros(0, np.uint8), np.float32(0), np.float32(0)
    base = sizes.min()
    unit = step_of(float(sizes.max()) - float(base), _LEVELS)
    if not _bound(base, unit) <= _LARGEST:  # NaN, where all of them are infinite
        raise WireError(Rule.NOT_FINITE, f"a change of {sizes.max():.3g} is too large")
    if not unit:
        return np.zeros(sizes.size, np.uint8), base, unit
    found = np.floor((sizes - base) / unit + rng.random(sizes.size, dtype=np.float32))
    return np.minimum(found, _LEVELS).astype(np.uint8), base, unit


def _spread(what: Array, ends: npt.NDArray[np.intp], count: int) -> Bytes:
    """At the steps that end at a weight; 0 at the others."""
    found = np.zeros(count, np.uint8)
    found[ends] = what
    return found


def _padded(what: Bytes, size: int) -> Bytes:
    return np.pad(what, (0, size - what.size))


def _sample(
    flat: Vector32, taken: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.intp], Vector32]:
    """Which `taken` of the weights are sent, ascending, and as what, but for the sign. Those that
    are zero never are."""
    sizes = np.abs(flat, dtype=np.float64)
    threshold = _threshold(sizes, taken)
    # At 0 all that are not zero can be sent.
    chances = np.minimum(sizes / threshold, 1.0) if threshold > 0 else (sizes > 0) * 1.0
    at = np.cumsum(chances).searchsorted(rng.random() + np.arange(taken), side="right")
    chosen = np.zeros(flat.size, np.bool_)
    chosen[at[at < flat.size]] = True
    chosen &= sizes > 0  # rounding may have led to its neighbour
    indices = np.flatnonzero(chosen)
    with np.errstate(over="ignore"):  # it is refused
        return indices, np.maximum(sizes[indices], threshold).astype(np.float32)


def _threshold(sizes: npt.NDArray[np.float64], taken: int) -> float:
    """c such that min(1, size / c) adds up to `taken`; 0 when no more than that are not zero."""
    if taken >= sizes.size:
        return 0.0
    parted = np.partition(sizes, sizes.size - taken)
    largest = np.sort(parted[-taken:])
    # Added up from the smallest on: differences of large sums would be noise.
    rest = parted[:-taken].sum() + np.cumsum(largest)
    places = 1 + np.arange(taken)
    # Those above it are taken for certain; the last of these is not, and so c is where it ends.
    below = np.flatnonzero(largest * places < rest)
    return float(rest[below[-1]] / places[below[-1]]) if below.size else 0.0
