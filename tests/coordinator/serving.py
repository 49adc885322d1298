"""A coordinator in the test's own process, over real sockets, with a clock that leaps."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from coordinator.client import AdminClient
from coordinator.http.app import application
from coordinator.service import Coordinator
from coordinator.start import StoreOptions, open_coordinator
from coordinator.store import tasks
from coordinator.store.sqlite import SqliteStore
from coordinator.store.watched import WatchedStore
from coordinator.task import Task
from fleet.clients import Device
from wire import checkpoint
from wire.checkpoint import Weights

D = TypeVar("D", bound=Device)
START = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday


class LeapingClock:
    """The machine's clock, that leaps when told. The event loop's own timers leap with it, so
    nothing that is tested ever waits for real."""

    def __init__(self, start: datetime = START) -> None:
        loop = asyncio.get_running_loop()
        self._real = loop.time
        self._zero = self._real()
        self._ahead = 0.0
        self._start = start
        loop.time = self.monotonic  # type: ignore[method-assign]

    def monotonic(self) -> float:
        """Seconds from an arbitrary point."""
        return self._real() + self._ahead

    def now(self) -> datetime:
        """The wall clock."""
        return self._start + timedelta(seconds=self.monotonic() - self._zero)

    def leap(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self._ahead += seconds


@dataclass
class Serving:
    """A running coordinator."""

    coordinator: Coordinator
    clock: LeapingClock
    url: str
    token: str
    admin: AdminClient

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rpartition(":")[2])

    def task(self, name: str = "digits") -> Task:
        """A running task."""
        return self.coordinator.tasks[name]

    async def device(self, kind: type[D] = Device, **habits: Any) -> D:  # type: ignore[assignment]
        """A newly enrolled device."""
        return await kind.enroll(self.url, await self.admin.token(1, 3600.0), **habits)

    async def devices(self, count: int) -> list[Device]:
        """Newly enrolled honest devices."""
        token = await self.admin.token(count, 3600.0)
        return [await Device.enroll(self.url, token) for _ in range(count)]

    async def until(self, fact: Callable[[], object]) -> None:
        """Wait until something is so."""
        for _ in range(1000):
            if fact():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("it never came to be so")

    async def round_ends(self, number: int, name: str = "digits") -> None:
        """Wait until the round `number` of a task has ended and what follows it is in place."""
        task = self.task(name)
        await self.until(lambda: task.round.number > number or not task.running)

    async def until_swept(self) -> None:
        """Wait until no upload has bytes on disk."""
        parts = self.coordinator.services.parts
        for _ in range(400):
            if not await asyncio.to_thread(parts.held):
                return
            await asyncio.sleep(0.005)
        raise AssertionError("uploads stay on disk")

    async def model(self, name: str = "digits", version: int | None = None) -> Weights:
        """A published model, the newest unless `version` says which."""
        task, services = self.task(name), self.coordinator.services
        if version is None:
            found = await services.store.read(tasks.newest_model, name)
        else:
            found = await task.model_of(version, services.store)
        data = await services.blobs.get(found.digest)
        return checkpoint.read(data, task.manifest.checkpoint)

    async def states(self, number: int = 1, name: str = "digits") -> dict[str, str]:
        """What became of each device's assignment in a round, by device."""
        found = await self.admin.round(name, number)
        return {a.device: a.state for a in found.assignments}

    async def count(self, sample: str) -> float:
        """The value of a line of the metrics, 0 when it is not there."""
        for line in (await self.admin.metrics()).splitlines():
            if line.startswith(f"{sample} "):
                return float(line.split()[-1])
        return 0.0


def sqlite_of(served: Serving) -> SqliteStore:
    """The store under the one that is watched."""
    store = served.coordinator.services.store
    assert isinstance(store, WatchedStore)
    assert isinstance(store.within, SqliteStore)
    return store.within


@contextmanager
def denied(served: Serving, action: int, table: str) -> Iterator[list[int]]:
    """Meanwhile the database refuses to do `action` (`sqlite3.SQLITE_INSERT`, ...) to `table`.
    Gives a list that grows with each attempt."""
    tried: list[int] = []

    def check(asked: int, name: str | None, *_: object) -> int:
        if (asked, name) != (action, table):
            return sqlite3.SQLITE_OK
        tried.append(1)
        return sqlite3.SQLITE_DENY

    database = sqlite_of(served)._writer._sql
    database.set_authorizer(check)
    try:
        yield tried
    finally:
        database.set_authorizer(None)


@asynccontextmanager
async def serving(
    state: Path,
    clock: LeapingClock | None = None,
    wrap: Callable[[web.Application], object] = id,
    options: StoreOptions | None = None,
) -> AsyncIterator[Serving]:
    """Serve over the folder `state` on any free port; `wrap` may change the application."""
    clock = clock or LeapingClock()
    async with open_coordinator(state, clock, options) as coordinator:
        app = application(coordinator)
        wrap(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            token = await asyncio.to_thread((state / "admin.token").read_text)
            async with AdminClient(url, token) as admin:
                yield Serving(coordinator, clock, url, token, admin)
        finally:
            await runner.cleanup()
