"""Whether an update may count at all."""

from collections.abc import Iterator, Mapping

from coordinator.aggregation.cells import peak_of
from coordinator.aggregation.layout import Layout, Vector32
from coordinator.aggregation.recipe import Contribution
from coordinator.aggregation.sums import check_peak
from wire.codecs import Delta
from wire.errors import Rule, WireError


def check(update: Contribution, layout: Layout, weight: int) -> None:
    """Raise `WireError` for a change that is zero (no_change), absurd (too_far), or not finite.

    Decided by the largest change alone, which every machine finds exactly.
    """
    if update.examples < 1 or update.steps < 1 or update.staleness < 0:
        raise ValueError(f"not an update: {update._replace(delta={})}")
    largest = 0.0
    for peak in _peaks(update.delta, layout):
        check_peak(peak, weight)
        largest = max(largest, peak)
    if largest == 0:
        raise WireError(Rule.NO_CHANGE, "no weight changed")


def _peaks(delta: Mapping[str, Vector32], layout: Layout) -> Iterator[float]:
    """The largest change of each parameter, or of each piece of it."""
    if isinstance(delta, Delta):
        return map(delta.peak, delta)
    return (peak_of(piece.of(delta)) for piece in layout.pieces())
