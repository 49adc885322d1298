"""What one process has summed of a task's open round, and what it adds up to for others.

The store knows of each update that counts which process has summed it (`node`). So the sum of a
process and the store can be held against each other at the close: by their number of updates and
the sum of their tags. Where they differ, whatever the reason, the store's bytes are summed instead.
"""

from collections.abc import Sequence
from typing import NamedTuple

from coordinator.aggregation import Aggregator, Contribution, Sum
from coordinator.store.sums import tag


class Summed(NamedTuple):
    """An update that counts, and what it contributes."""

    assignment: str
    contribution: Contribution


class Tally:
    """One task's. Blocking; used by one thread."""

    def __init__(self, aggregator: Aggregator) -> None:
        self._aggregator = aggregator
        self._number = 0
        self._sum: Sum | None = None
        self._updates = 0
        self._tags = 0

    def sum_up(self, number: int, updates: Sequence[Summed]) -> None:
        """Add updates that count in round `number`; the rounds before it are over. When that fails
        the sum is spoilt."""
        try:
            self._add(number, updates)
        except BaseException:
            self.spoil()
            raise

    def _add(self, number: int, updates: Sequence[Summed]) -> None:
        if number != self._number:
            self._number = number
            self._sum = self._aggregator.empty() if self._aggregator.streams else None
            self._updates = self._tags = 0
        if self._sum is not None:
            self._sum.add_all([update.contribution for update in updates])
        self._updates += len(updates)
        self._tags += sum(tag(update.assignment) for update in updates)

    def remove(self, number: int, update: Summed) -> None:
        """As if this update had never been summed."""
        if number != self._number:
            return
        if self._sum is not None:
            self._sum.remove(update.contribution)
        self._updates -= 1
        self._tags -= tag(update.assignment)

    def partial(self, number: int) -> tuple[int, int, bytes] | None:
        """The number of updates, the sum of their tags and `Sum.to_bytes`; `None` when nothing of
        round `number` was summed."""
        if self._sum is None or number != self._number or not self._updates:
            return None
        return self._updates, self._tags, self._sum.to_bytes()

    def over(self, number: int) -> None:
        """Round `number` is closed: its sum needs no memory any more."""
        if number == self._number:
            self._number, self._sum = 0, None

    def spoil(self) -> None:
        """Something went wrong half-way: nobody is to trust this sum."""
        self._tags = -1
