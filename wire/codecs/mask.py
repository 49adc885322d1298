"""`mask:F`: a random part of the weights, told by one number."""

import math
from functools import lru_cache

import numpy as np

from wire.codecs.base import Coded, Places, Schema, Vector32
from wire.codecs.share import Share
from wire.errors import Rule, WireError
from wire.tensors import Array, Spec

_START = np.dtype("<i4")
_GOLDEN = (math.sqrt(5) - 1) / 2


class Mask:
    """A random mask (Konečný et al., 2016), from one random number that is sent: no index is.

    All n weights stand in an order that everyone knows, place i holding weight (a i) mod n, with a
    near to the golden section of n: neighbours there lie far apart in the model. The k = F n from a
    random place on are sent, as x n / k. 0 bits a weight beside the values; unbiased, since each
    weight is as likely to be among them as any other; the variance of a weight is x^2 (n / k - 1).
    """

    unbiased = True

    def __init__(self, share: Share) -> None:
        self._share = share
        self.name = f"mask:{share}"

    def count(self, sizes: tuple[int, ...]) -> int:
        return self._share.of(sum(sizes))

    def schema(self, sizes: tuple[int, ...]) -> Schema:
        return {"start": Spec(_START, ())}

    def choose(
        self, flat: Vector32, sizes: tuple[int, ...], rng: np.random.Generator
    ) -> tuple[dict[str, Array], Vector32]:
        count = self.count(sizes)
        start = int(rng.integers(max(flat.size, 1)))
        with np.errstate(over="ignore"):  # the quantiser refuses it
            kept = flat[_walk(flat.size, start, count)] * np.float32(flat.size / max(count, 1))
        return {"start": np.asarray(start, _START)}, kept

    def check(self, coded: Coded, sizes: tuple[int, ...]) -> None:
        start, size = int(coded["start"]), sum(sizes)
        if not 0 <= start < max(size, 1):
            raise WireError(Rule.BAD_FORMAT, f"starts at place {start} of {size}")

    def places(self, coded: Coded, sizes: tuple[int, ...]) -> Places:
        start, count = int(coded["start"]), self.count(sizes)
        return _order(sum(sizes), count)[start : start + count]


def _walk(size: int, start: int, count: int) -> Places:
    """The weights at so many places from one on, beginning anew after the last place."""
    step = max(1, round(size * _GOLDEN))
    while math.gcd(step, size) > 1:
        step += 1
    found = np.arange(start, start + count, dtype=np.intp)
    found *= step
    found %= max(size, 1)
    return found


@lru_cache(maxsize=4)
def _order(size: int, count: int) -> Places:
    """The weights in their order, and its beginning once more: those sent from any place on are a
    view of it. For the coordinator, which sums many; memory: some 9 bytes a weight, and a task has
    one model."""
    found = _walk(size, 0, size + count)
    found.flags.writeable = False
    return found
