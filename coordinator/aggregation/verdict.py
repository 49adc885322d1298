"""Whether an update may count at all."""

from coordinator.aggregation.cells import peak_of
from coordinator.aggregation.layout import Layout
from coordinator.aggregation.recipe import Contribution
from coordinator.aggregation.sums import FARTHEST, check_peak
from wire.codecs import Delta
from wire.errors import Rule, WireError


def check(update: Contribution, layout: Layout, weight: int) -> None:
    """Raise `WireError` for a change that is zero (no_change), absurd (too_far), or not finite.

    Decided by the largest change alone, which every machine finds exactly.
    """
    if update.examples < 1 or update.steps < 1 or update.staleness < 0:
        raise ValueError(f"not an update: {update._replace(delta={})}")
    if isinstance(update.delta, Delta):
        bounds = map(update.delta.bound, update.delta)
        if 0 < max(bounds, default=0) * weight <= FARTHEST:
            return  # no need to look at every change
    largest = 0.0
    for piece in layout.pieces():
        peak = peak_of(piece.of(update.delta))
        check_peak(peak, weight)
        largest = max(largest, peak)
    if largest == 0:
        raise WireError(Rule.NO_CHANGE, "no weight changed")
