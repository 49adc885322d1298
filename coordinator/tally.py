"""What this process has summed of a task's open round, and what it adds up to for others.

The store knows of each update that counts which process has summed it (`node`). So the sum of a
process and the store can be held against each other at the close: by their number of updates and
the sum of their tags. Where they differ, whatever the reason, the store's bytes are summed instead.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import NamedTuple

from coordinator.aggregation import Aggregator, Contribution, Sum
from coordinator.store.sums import Portion, tag


class Summed(NamedTuple):
    """An update that counts, and what it contributes."""

    assignment: str
    contribution: Contribution


class Tally:
    """One task's. Updates are made durable under `lock`, and before it is let go their sum is under
    way; who wants to find either both or neither waits for it `still`."""

    def __init__(self, aggregator: Aggregator) -> None:
        self.lock = asyncio.Lock()
        self._under_way: set[asyncio.Future[None]] = set()
        self._aggregator = aggregator
        self._number = 0
        self._sum: Sum | None = None
        self._updates = 0
        self._tags = 0

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While this lasts nothing is made durable or summed here: what is durable is summed."""
        async with self.lock:
            if self._under_way:
                await asyncio.wait(self._under_way)
            yield

    def start(self, number: int, updates: Sequence[Summed], hand: Executor) -> asyncio.Future[None]:
        """Under `lock`: sum updates that count in round `number`, in the thread `hand` and in
        this order. One that fails spoils the sum: they count nevertheless, and at the close their
        bytes are summed instead."""
        loop = asyncio.get_running_loop()
        started = loop.run_in_executor(hand, self._sum_up, number, updates)
        self._under_way.add(started)
        started.add_done_callback(self._under_way.discard)
        return started

    def _sum_up(self, number: int, updates: Sequence[Summed]) -> None:
        try:
            self.add(number, updates)
        except BaseException:
            self.spoil()
            raise

    def add(self, number: int, updates: Sequence[Summed]) -> None:
        """Blocking: updates that count in round `number`. The rounds before it are over."""
        if number != self._number:
            self._number = number
            self._sum = self._aggregator.empty() if self._aggregator.streams else None
            self._updates = self._tags = 0
        if self._sum is not None:
            self._sum.add_all([update.contribution for update in updates])
        self._updates += len(updates)
        self._tags += sum(tag(update.assignment) for update in updates)

    def remove(self, number: int, update: Summed) -> None:
        """Blocking: as if this update had never been summed."""
        if number != self._number:
            return
        if self._sum is not None:
            self._sum.remove(update.contribution)
        self._updates -= 1
        self._tags -= tag(update.assignment)

    def of(self, portion: Portion, number: int) -> Sum | None:
        """The sum, when it is of the updates of round `number` that the store means."""
        same = (number, portion.updates, portion.tags) == (self._number, self._updates, self._tags)
        return self._sum if same else None

    def partial(self, number: int) -> tuple[int, bytes] | None:
        """Blocking: the sum for another process, and its tags; `None` when there is nothing."""
        if self._sum is None or number != self._number or not self._updates:
            return None
        return self._tags, self._sum.to_bytes()

    def over(self, number: int) -> None:
        """Round `number` is closed: its sum needs no memory any more."""
        if number == self._number:
            self._number, self._sum = 0, None

    def spoil(self) -> None:
        """Something went wrong half-way: nobody is to trust this sum."""
        self._tags = -1
