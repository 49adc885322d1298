"""Devices with a bad network, or a bad battery: what they say is true."""

import asyncio
from collections.abc import AsyncIterator

from edge_agent.errors import Offline
from fleet.clients.device import Device
from wire.digest import digest_of
from wire.messages import Assignment


class SlowDevice(Device):
    """Sends `bytes_per_second`, in one request however long it takes."""

    bytes_per_second: float = 1000.0

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        offset = await self.announce(assignment, len(data), digest_of(data))
        if offset is not None:
            await self.append(assignment, offset, self._trickle(data[offset:]))

    async def _trickle(self, data: bytes) -> AsyncIterator[bytes]:
        size = max(1, int(self.bytes_per_second / 100))
        for start in range(0, len(data), size):
            yield data[start : start + size]
            await asyncio.sleep(size / self.bytes_per_second)


class SilentDevice(Device):
    """Takes an assignment and is never heard of again."""

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        pass


class FlappingDevice(Device):
    """Loses its connection in mid-upload, `drops` times, each time going on from where the
    coordinator is; then it delivers, or gives up when `gives_up` says so."""

    drops: int = 3
    gives_up: bool = False

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        piece = max(1, len(data) // (self.drops + 1))
        for _ in range(self.drops):
            offset = await self.announce(assignment, len(data), digest_of(data))
            if offset is None:
                return
            try:
                await self.append(assignment, offset, _cut(data[offset : offset + piece]))
            except Offline:
                continue
        if self.gives_up:
            await self.give_up(assignment)
        else:
            await super().deliver(assignment, data)


class DuplicateDevice(Device):
    """Sends the same update `copies` times: at once, or one after the other."""

    copies: int = 2
    at_once: bool = True

    async def deliver(self, assignment: Assignment, data: bytes) -> None:
        if self.at_once:
            await asyncio.gather(*(self._copy(assignment, data) for _ in range(self.copies)))
        else:
            for _ in range(self.copies):
                await self._copy(assignment, data)

    async def _copy(self, assignment: Assignment, data: bytes) -> None:
        await super().deliver(assignment, data)


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    """The data, and then the connection breaks."""
    yield data
    raise ConnectionResetError("the connection breaks here")
