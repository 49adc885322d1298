"""The processes over the store: each says now and then that it is alive, and sees who else does."""

import asyncio
import socket

from coordinator.store import nodes
from coordinator.store.sql import Store
from coordinator.trying import Trying

_HEARTBEAT_SECONDS = 2.0
_SOON = 1.0  # after a failure: others take this process for dead
_DEAD_SECONDS = 10.0  # without a heartbeat: what a process has summed is others' to sum


class Nodes:
    """Those that are `alive`, as last seen; this one among them."""

    def __init__(self, store: Store, own: str) -> None:
        self._store = store
        self._own = own
        self.alive = {own}

    async def begin(self) -> None:
        """This process is there; over a store that is not shared, it alone is."""
        if not self._store.shared:
            await self._store.run(nodes.alone, self._own)
        await self._beat()

    async def keep_beating(self) -> None:
        """Until cancelled."""
        trying = Trying("this process could not say that it is alive", _SOON)
        while True:
            await asyncio.sleep(_HEARTBEAT_SECONDS)
            async with trying:
                if self._store.shared:
                    await self._beat()

    async def farewell(self) -> None:
        """This process ends."""
        await self._store.run(nodes.farewell, self._own)

    async def _beat(self) -> None:
        now = self._store.now()
        alive = await self._store.run(
            nodes.alive, self._own, socket.gethostname(), now, now - _DEAD_SECONDS
        )
        self.alive = {self._own, *alive}
