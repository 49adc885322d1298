"""Over-selection that follows the drop-out rate seen."""

import math
from collections.abc import Sequence
from typing import NamedTuple

PRIOR = 20.0
"""So many assignments is the task file's own guess worth."""

MEMORY = 0.9
"""What a round counts for, compared with the one after it: the last ten or so decide."""


SPARE = 0.05
"""Of those expected to come. The rounds that close early show too few of their drop-outs."""


class EndedRound(NamedTuple):
    """How a round's assignments went.

    `dropped`: gave up, were refused, or had as much time as the slowest that counted and did not
    come. The others that did not arrive are unknown: the round closed before their time.
    """

    assigned: int
    arrived: int
    dropped: int


class _Seen(NamedTuple):
    """Assignments by what became of them, those of the latest rounds counting most."""

    arrived: float
    dropped: float
    unknown: float

    @property
    def known(self) -> float:
        return self.arrived + self.dropped


def dropout(first: float, ended: Sequence[EndedRound]) -> float:
    """The share of assignments that come to nothing, from 0 to 1, by the rounds that ended, oldest
    first. `first` is the over-selection that a task begins with, and 1 - 1 / first its guess."""
    return _dropout(first, _sum(ended))


def over_selection(first: float, limit: float, ended: Sequence[EndedRound]) -> float:
    """How many devices to ask for each update that is wanted: from 1 to `limit`.

    1 / (1 - dropout) is enough half of the time. So `SPARE` and one standard deviation of those who
    come are taken off, as far as the rounds, not the first guess, say how many do.
    """
    seen = _sum(ended)
    dropped = _dropout(first, seen)
    asked = max(1, ended[-1].assigned) if ended else 1
    sure = seen.known / (seen.known + PRIOR)
    kept = 1 - dropped
    kept -= sure * (SPARE * kept + math.sqrt(dropped * kept / asked))
    return max(1.0, min(limit, 1 / kept if kept > 0 else limit))


def _sum(ended: Sequence[EndedRound]) -> _Seen:
    arrived, dropped, unknown, weight = 0.0, 0.0, 0.0, 1.0
    for past in reversed(ended):
        arrived += weight * past.arrived
        dropped += weight * past.dropped
        unknown += weight * max(0, past.assigned - past.arrived - past.dropped)
        weight *= MEMORY
    return _Seen(arrived, dropped, unknown)


def _dropout(first: float, seen: _Seen) -> float:
    """To leave the unknown out would tell a rate too low: of those with too little time, the quick
    have arrived and are counted. So the odds that an unknown one has dropped out are taken to be
    twice those of any, as if half of those who come had come: a share of 2 d / (1 + d), d being
    the rate, which is then the root of total d = certain + unknown * 2 d / (1 + d).
    """
    # Were most unknown, that would find drop-outs where there is no sign of any.
    unknown = min(seen.unknown, seen.known / 2)
    certain = PRIOR * (1 - 1 / max(first, 1.0)) + seen.dropped
    total = PRIOR + seen.known + unknown
    half = (total - certain - 2 * unknown) / 2
    return min(1.0, (math.sqrt(half**2 + total * certain) - half) / total)
