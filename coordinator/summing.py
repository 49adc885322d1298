"""A task's sum of its open round as the event loop sees it: who may touch it when."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from coordinator.bench import Bench, Counted, Work
from coordinator.hand import Hand


class Summing:
    """Updates are made durable under `lock`, and before it is let go their sum is under way; who
    wants to find either both or neither waits for it `still`."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While this lasts nothing is made durable or summed here: what is durable is summed."""
        async with self.lock:
            if self._under_way:
                await asyncio.wait(self._under_way)
            yield

    def start(
        self, hand: Hand, work: Work, batch: int, number: int, counted: Sequence[Counted]
    ) -> asyncio.Task[None]:
        """Under `lock`: sum those of a batch that count in round `number`; see `Bench.add`."""
        started = asyncio.create_task(hand.do(Bench.add, work, batch, number, counted))
        self._under_way.add(started)
        started.add_done_callback(self._under_way.discard)
        return started
