"""`upload.codec = "auto"`: which codec, given how many bytes an update may have. Pure.

The choice depends on the task file and the model's shapes alone: every process and every restart
makes the same.
"""

import math
from fractions import Fraction
from functools import partial
from typing import NamedTuple

import numpy as np

from wire import update
from wire.codecs import DEFAULT, Selective, codec_named
from wire.codecs.rotate import BLOCK, blocks_of
from wire.codecs.share import Share
from wire.digest import digest_of
from wire.errors import WireError
from wire.plan import Parameter
from wire.sizes import human_size

AUTO = "auto"
DENSE_DEFAULT = "uniform:8"
"""Of strategies that look at single updates: these must tell of every weight."""

EXACT = ("float32", "float16", "rotate+eden:8")
"""For strategies that add up what updates said over all rounds, so that errors add up, too. With
`uniform:8` SCAFFOLD came to a halt after 150 rounds of a small model, at nine times the loss above
the least that it reached with these; with fewer bits it diverged, or nearly."""

_DENSE = ("float32", "float16", "uniform:8", "rotate+eden:4", "rotate+eden:2", "rotate+eden:1")
_SPARSE = tuple(f"sample:1/{part}" for part in (8, 16, 32, 64, 128, 256))
_FRAME = 1000  # bytes of the update's header and of the tensors' names, at most
_TENSOR = 150  # more for each tensor of the model, where it is told by itself
_HEADER = partial(
    update.UpdateHeader,
    assignment="made-up",
    plan=digest_of(b""),
    base=digest_of(b""),
    examples=600,
    steps=60,
    loss=1.0,
    seconds=1.0,
)


class Expectation(NamedTuple):
    """What updates of a codec cost, on made-up changes, normal ones: bytes of one, and the `error`
    |Q(x) - x|^2 / |x|^2 of one, which a mean of n unbiased ones divides by n. Changes of real
    models are larger in few places, and `sample` has a smaller error on these."""

    bytes: int
    error: float


class TooSmall(Exception):
    """No codec keeps to the budget; says which comes nearest."""


def contradiction(codec: str, budget: int | None, one_by_one: str | None) -> str | None:
    """What is wrong with a task file's codec, if anything. `one_by_one` is the kind of aggregation
    where that looks at single updates."""
    if codec == AUTO:
        return None
    if budget is not None:
        return f"upload.budget = {human_size(budget)!r}: for upload.codec = {AUTO!r} alone"
    try:
        found = codec_named(codec)
    except WireError as error:
        return f"upload.codec = {codec!r}: {error.detail}; or {AUTO!r}"
    if one_by_one is None or not isinstance(found, Selective):
        return None
    return (
        f"upload.codec = {codec!r}: its updates have most weights unchanged, and "
        f"aggregation.kind = {one_by_one!r} looks at single updates; expected "
        "float32, float16, uniform:B, rotate+eden:B or lowrank:R"
    )


def choose(
    codec: str,
    budget: int | None,
    looks_at_each: bool,
    parameters: tuple[Parameter, ...],
    adds_up: bool = False,
) -> str:
    """The codec of a task. `looks_at_each`: its strategy looks at single updates, so that each must
    tell of every weight; `adds_up`: it adds up what all updates ever said. Raises `TooSmall`."""
    if codec != AUTO:
        return codec
    if budget is None:
        if adds_up:
            return min(EXACT, key=lambda name: most_bytes(name, parameters))
        return DENSE_DEFAULT if looks_at_each else DEFAULT
    candidates = _DENSE if looks_at_each else _DENSE + _SPARSE
    if adds_up:
        candidates = EXACT
    for name in candidates:  # the least error first
        if most_bytes(name, parameters) <= budget:
            return name
    least, nearest = min((most_bytes(name, parameters), name) for name in candidates)
    raise TooSmall(
        f"no codec makes updates of {int(budget)} bytes at most of this model's "
        f"{sum(p.size for p in parameters):,} weights: {nearest!r} takes {least}"
    )


def expected(codec: str, parameters: tuple[Parameter, ...]) -> Expectation:
    """What to expect of a codec. Blocking: codes a made-up change of the whole model."""
    rng = np.random.default_rng(1)
    delta = {p.name: rng.standard_normal(p.shape, dtype=np.float32) for p in parameters}
    data = update.write(_HEADER(codec=codec), delta, rng)
    found = update.read(data, parameters, codec).delta
    error = square = 0.0
    for name, values in delta.items():
        exact = values.astype(np.float64)
        square += float((exact**2).sum())
        error += float(((found[name] - exact) ** 2).sum())
    return Expectation(len(data), error / max(square, 1e-300))


def most_bytes(codec: str, parameters: tuple[Parameter, ...]) -> int:
    """Bytes of an update, at most: the entropy of the worst change, and room for zstd's."""
    size = sum(p.size for p in parameters)
    kind, _, argument = codec.rpartition(":")
    by_tensor = sum(_TENSOR + 3 * len(p.name) for p in parameters)
    match kind:
        case "sample":
            sent = Share(Fraction(argument)).of(size)
            # Steps at random places; a sign and a level each. Of most changes few have a level.
            return _FRAME + math.ceil(1.06 * (_entropy(sent, size) / 8 + sent / 8 + sent))
        case "rotate+eden":
            return _FRAME + blocks_of(size) * (BLOCK * int(argument) // 8 + 4)
        case "uniform":
            return _FRAME + by_tensor + size * int(argument) // 8
    return _FRAME + by_tensor + size * (4 if codec == "float32" else 2)


def _entropy(sent: int, size: int) -> float:
    """Bits that tell which of the weights are sent, at random places."""
    part = sent / max(size, 1)
    if not 0 < part < 1:
        return float(size)
    return -size * (part * math.log2(part) + (1 - part) * math.log2(1 - part))
