"""The strategies that hold though some devices lie; they compare all updates of a round.

Median and trimmed mean take each weight by itself: its changes in order, those at both ends left
out, the mean of the rest (Yin et al., 2018). Krum and multi-Krum take whole updates: each is scored
by the squared distances to its n - f - 2 nearest neighbours, the best are kept (Blanchard et al.,
2017). None of them weighs by examples, which a liar would claim.

Krum and multi-Krum need n >= 2f + 3 updates against f liars. With fewer the round fails (too_few)
and the model stays as it was: another strategy in their place would not be what was asked for.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

import numpy as np

from coordinator.aggregation.contract import Next
from coordinator.aggregation.layout import Layout, Vector32, Vector64
from coordinator.aggregation.options import (
    Krum,
    Median,
    MultiKrum,
    TrimmedMean,
    holds,
    kind_of,
    share_of,
)
from coordinator.aggregation.recipe import Contribution
from coordinator.aggregation.rows import Rows
from coordinator.aggregation.server import moved
from coordinator.aggregation.sums import Sum
from coordinator.aggregation.verdict import check
from wire.checkpoint import Weights
from wire.errors import Rule, WireError

Robust = Median | TrimmedMean | Krum | MultiKrum


class RobustAggregator:
    """See `coordinator.aggregation.contract.Aggregator`."""

    streams = False

    def __init__(self, options: Robust, layout: Layout, staleness_exponent: float) -> None:
        self._options = options
        self._layout = layout
        self._exponent = staleness_exponent

    def check(self, update: Contribution) -> None:
        check(update, self._layout, 1)

    def empty(self) -> Sum:
        self._no_sum()

    def read(self, data: bytes) -> Sum:
        self._no_sum()

    def close(self, base: Weights, state: bytes | None, total: Sum) -> Next:
        self._no_sum()

    def close_all(
        self,
        base: Weights,
        state: bytes | None,
        updates: Iterable[tuple[str, Contribution]],
        scratch: Path,
    ) -> Next:
        with Rows(self._layout, self._exponent, scratch) as rows:
            rows.fill(updates)
            if not rows:
                raise WireError(Rule.TOO_FEW, "no update arrived")
            change = self._layout.views(self._change(rows))
            weights = {name: moved(name, base[name], step) for name, step in change.items()}
            return Next(weights, None, len(rows), rows.examples)

    def needs(self, updates: int) -> str | None:
        kind, disk = kind_of(self._options), _size(4 * self._layout.size * updates)
        text = f"{kind} keeps every update of a round: {disk} of disk for {updates} updates"
        if isinstance(self._options, Krum | MultiKrum):
            text += f", and compares each with each: {_size(24 * updates**2)} of memory"
        return text

    def _change(self, rows: Rows) -> Vector64:
        match self._options:
            case Median():
                return _between(rows, self._layout, (len(rows) - 1) // 2)
            case TrimmedMean(trim=trim):
                return _between(rows, self._layout, share_of(trim, len(rows)))
            case Krum(byzantine=byzantine):
                return _nearest(rows, self._layout, share_of(byzantine, len(rows)), 1)
            case MultiKrum(byzantine=byzantine, keep=keep):
                return _nearest(rows, self._layout, share_of(byzantine, len(rows)), keep)

    def _no_sum(self) -> NoReturn:
        raise TypeError(f"{kind_of(self._options)} has no running sum: it needs every update")


def _between(rows: Rows, layout: Layout, cut: int) -> Vector64:
    """The mean of each weight's changes without the `cut` least and the `cut` greatest."""

    def mean(block: Vector32) -> Vector64:
        ordered = np.sort(block.T, axis=1)  # sorted, so that the mean does not depend on an order
        kept = ordered[:, cut : ordered.shape[1] - cut].astype(np.float64)
        found: Vector64 = kept.mean(axis=1)
        return found

    return _by_columns(rows, layout, mean)


def _nearest(rows: Rows, layout: Layout, liars: int, keep: int | None) -> Vector64:
    """The mean of the `keep` updates nearest to their neighbours."""
    count = len(rows)
    if not holds(count, liars):
        raise WireError(
            Rule.TOO_FEW, f"{count} updates; against {liars} liars at least {2 * liars + 3}"
        )
    neighbours = count - liars - 2
    keep = min(keep or neighbours, neighbours)
    best = np.argsort(_scores(_distances(rows), neighbours), kind="stable")[:keep]
    which = sorted(int(index) for index in best)
    return _by_columns(rows, layout, lambda block: block.mean(axis=0, dtype=np.float64), which)


def _scores(distances: Vector64, neighbours: int) -> Vector64:
    """Each update's sum of distances to its nearest neighbours; itself is not one."""
    np.fill_diagonal(distances, np.inf)
    distances.sort(axis=1)
    scores: Vector64 = distances[:, :neighbours].sum(axis=1)
    return scores


def _distances(rows: Rows) -> Vector64:
    """Squared Euclidean distances between all rows, of shape [rows, rows].

    |a - b|^2 = |a|^2 + |b|^2 - 2 ab, block by block of columns. What a liar's huge numbers lose in
    last places are distances to that liar alone.
    """
    gram = np.zeros((len(rows), len(rows)))
    for _, block in rows.columns():
        wide = block.astype(np.float64)
        gram += wide @ wide.T
    squares = gram.diagonal().copy()
    gram *= -2
    gram += squares[:, None]
    gram += squares[None, :]
    return np.maximum(gram, 0.0, out=gram)


def _by_columns(
    rows: Rows,
    layout: Layout,
    combine: Callable[[Vector32], Vector64],
    which: list[int] | None = None,
) -> Vector64:
    found = np.empty(layout.size, np.float64)
    for place, block in rows.columns(which):
        found[place] = combine(block)
    return found


def _size(count: int) -> str:
    """Bytes for a person."""
    number = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
