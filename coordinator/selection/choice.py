"""Whether a device that checks in gets a place: a draw that it meets, or does not.

Nobody waits in a pool, so nobody can be picked from one: each device is decided on alone, when it
comes by. It draws a number from 0 to 1, the same one however often it asks in one round and
whichever process answers, and is admitted when that is below its chance. The chances are such
that, all having come by once, as many are expected to be admitted as there are places.

Some that would be admitted are asleep. So the chances hold for one interval between check-ins, and
then grow until, `EVERYBODY` intervals after the round could be joined, whoever comes is admitted.
"""

import math
from hashlib import blake2b

from coordinator.selection.options import Data, Fair, Selection, Speed, Uniform
from coordinator.selection.standing import Crowd, Standing

EVERYBODY = 3.0
"""Intervals until every device that can finish in time is admitted."""

DESPERATE = 6.0
"""Intervals until speed asks no margin any more and, while nobody has begun, no speed at all."""


def admits(
    options: Selection,
    *,
    device: str,
    task: str,
    round_number: int,
    standing: Standing,
    crowd: Crowd,
    places: int,
    waited: float,
    interval: float,
    remaining: float,
    begun: bool = False,
) -> bool:
    """Whether `device` may have one of the round's `places` (all of them, not only the free ones).

    `waited`: seconds since the round could first be joined: it is open, and so is the schedule's
    window. `interval`: the usual wait of a device between two check-ins, in seconds. `remaining`:
    seconds to the round's deadline; `begun`: it runs, since somebody works already.
    """
    patience = max(0.0, waited) / interval if interval > 0 else math.inf
    if isinstance(options, Speed) and _too_slow(
        options.margin, standing.seconds, remaining, patience, begun
    ):
        return False
    if crowd.population <= places:
        return True
    exact = 1 - _progress(patience, 1.0, EVERYBODY)
    chance = math.pow(_chance(options, standing, crowd, places), exact)
    return _draw(task, round_number, device) < chance


def _draw(task: str, round_number: int, device: str) -> float:
    """Uniform in [0, 1). Neither a name nor an id holds a line break."""
    text = f"{task}\n{round_number}\n{device}".encode()
    return (int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 11) / 2**53


def _progress(value: float, start: float, end: float) -> float:
    """How far `value` is on its way from `start` to `end`: 0 to 1."""
    return min(max((value - start) / (end - start), 0.0), 1.0)


def _chance(options: Selection, standing: Standing, crowd: Crowd, places: int) -> float:
    """The chance in the first interval; the population is larger than `places`."""
    match options:
        case Uniform() | Speed():
            return places / crowd.population
        case Data(at_most=most):
            weight = _examples(standing.examples, crowd.examples, most)
            return min(1.0, weight * places / crowd.population)
        case Fair():
            return _fair(standing.accepted, crowd, places)


def _examples(own: int | None, mean: float | None, most: float) -> float:
    return min(own / mean, most) if own and mean else 1.0


def _fair(accepted: int, crowd: Crowd, places: int) -> float:
    """min(1, c / 2^accepted), with the c for which all chances sum up to `places`.

    From the least served up: as long as a level cannot use up the places in its share, all of it
    is admitted, and the others share what is left. So neither a few newcomers nor old servants
    unlike the others leave places empty.
    """
    levels = dict(crowd.accepted)
    levels[0] = levels.get(0, 0) + max(0, crowd.population - sum(levels.values()))
    counts = sorted((level, number) for level, number in levels.items() if number > 0)
    left = float(places)
    for (level, number), weight in zip(counts, _weights(counts), strict=True):
        if left <= weight:
            return min(1.0, math.ldexp(left / weight, min(level - accepted, 60)))
        left -= number
    return 1.0


def _weights(counts: list[tuple[int, int]]) -> list[float]:
    """For each level, the weight of it and all above, that of a device at the level being 1."""
    weights: list[float] = []
    above, weight = 0, 0.0
    for level, number in reversed(counts):
        weight = number + math.ldexp(weight, level - above)
        weights.append(weight)
        above = level
    return weights[::-1]


def _too_slow(
    margin: float, seconds: float | None, remaining: float, patience: float, begun: bool
) -> bool:
    """Whether a device cannot finish. When nobody is fast enough, first the margin goes; then,
    rather than never to begin, all may try. Once somebody works, who cannot finish is not asked:
    its work would be in vain."""
    if seconds is None:
        return False
    despair = _progress(patience, EVERYBODY, DESPERATE)
    if despair >= 1 and not begun:
        return False
    return seconds * (margin + (1 - margin) * despair) > remaining
