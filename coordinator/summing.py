"""A task's sum of its open round as the event loop sees it: who may touch it when."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from coordinator.bench import Bench, Counted, Work
from coordinator.hand import Hand


class Summing:
    """Updates are made durable while `taking`, and before that ends their sum is under way; who
    wants to find either both or neither waits for it `still`. Batches are taken side by side: the
    store makes those durable together that come while it is busy."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._taking = 0
        self._none_taking = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[None]:
        """While this lasts nobody finds it `still`."""
        async with self._lock:
            self._taking += 1
        try:
            yield
        finally:
            self._taking -= 1
            if not self._taking:
                self._none_taking.set()

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While this lasts nothing is made durable or summed here: what is durable is summed."""
        async with self._lock:
            if self._taking:
                self._none_taking.clear()
                await self._none_taking.wait()
            if self._under_way:
                await asyncio.wait(self._under_way)
            yield

    def start(
        self, hand: Hand, work: Work, batch: int, number: int, counted: Sequence[Counted]
    ) -> asyncio.Task[None]:
        """While `taking`: sum those of a batch that count in round `number`; see `Bench.add`. To be
        called in the order in which they were made durable."""
        started = asyncio.create_task(hand.do(Bench.add, work, batch, number, counted))
        self._under_way.add(started)
        started.add_done_callback(self._under_way.discard)
        return started
