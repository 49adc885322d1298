"""Word from other processes: a connection of its own that listens, and comes back when it is lost.

What this process tells, it hears at once and without the database; its echo is left out.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from coordinator.store.postgres.connections import BROKEN
from coordinator.store.postgres.limits import RECONNECT, Limits

log = logging.getLogger(__name__)

CHANNEL = "lamplighter"


class Listener:
    """Hears what is told on the channel, and looks at the connection at every heartbeat."""

    def __init__(
        self,
        teller: str,
        connect: Callable[[], Awaitable[Any]],
        beat: Callable[[Any], Awaitable[None]],
        limits: Limits,
    ) -> None:
        self._teller = teller
        self._connect = connect
        self._beat = beat
        self._limits = limits
        self._told = asyncio.Event()
        self._started = asyncio.Event()

    async def changed(self, timeout: float) -> None:  # noqa: ASYNC109
        """Returns when something was told since the last call, or may have been while nobody
        listened, or after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._told.wait()
        except TimeoutError:
            return
        self._told.clear()

    def tell(self) -> None:
        """This process has told of something."""
        self._told.set()

    async def started(self) -> None:
        """Wait until it listens, or has failed to."""
        await self._started.wait()

    async def run(self) -> None:
        """Listen until cancelled."""
        failures = 0
        while True:
            try:
                async with self._listening() as (connection, lost):
                    if failures:
                        log.info("the database is back")
                        self._told.set()
                    failures = 0
                    self._started.set()
                    await self._stay(connection, lost)
                raise ConnectionResetError("the connection was closed")
            except BROKEN as error:
                failures += 1
                self._started.set()
                if failures == 1:
                    log.warning("no word from the database: %s", error or "time is up")
            await asyncio.sleep(RECONNECT.delay(failures, random.random()))  # noqa: S311

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[tuple[Any, asyncio.Event]]:
        lost = asyncio.Event()
        connection = await self._connect()
        try:
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(CHANNEL, self._heard)
            yield connection, lost
        finally:
            connection.terminate()

    def _heard(self, _connection: Any, _pid: int, _channel: str, teller: str) -> None:
        if teller != self._teller:
            self._told.set()

    async def _stay(self, connection: Any, lost: asyncio.Event) -> None:
        while not lost.is_set():
            await self._beat(connection)
            try:
                async with asyncio.timeout(self._limits.heartbeat):
                    await lost.wait()
            except TimeoutError:
                continue
