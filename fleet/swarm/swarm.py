"""Many connections that share the work of many devices."""

import asyncio
import resource
import ssl
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from fleet.swarm.line import Line, Script, Tally

T = TypeVar("T")

CONNECT_SECONDS = 10.0


class Target:
    """Where a coordinator answers, by its address (`http://127.0.0.1:8750`)."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(url)
        self.secure = parts.scheme == "https"
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r}: expected an address such as 'http://127.0.0.1:8750'")
        self.host = parts.hostname
        self.port = parts.port or (443 if self.secure else 80)
        self._tls = tls

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Open a connection. Raises `OSError`."""
        tls = (self._tls or True) if self.secure else None
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().create_connection(
                lambda: protocol, self.host, self.port, ssl=tls
            )


class Swarm:
    """`async with Swarm(url):` up to `connections` at a time, opened as they are needed and kept.

    `tls` is what an https address is checked by, if not by the system's authorities.
    """

    def __init__(self, url: str, connections: int = 64, tls: ssl.SSLContext | None = None) -> None:
        self._target = Target(url, tls)
        self._lines: list[Line[Any] | None] = [None] * connections

    async def __aenter__(self) -> Self:
        raise_file_limit()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for line in self._lines:
            if line is not None and line.open:
                line.abort()

    async def run(self, scripts: Iterable[Script[T]], seconds: float) -> Tally[T]:
        """Run scripts until all are done, or for so many seconds.

        Scripts are taken when a connection is free, so they may come from a generator that makes
        them one at a time. Raises `OSError` when the server cannot be reached, and what a script
        raises.
        """
        tally: Tally[T] = Tally()
        waiting = iter(scripts)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for number in range(len(self._lines)):
                    group.create_task(self._work(number, waiting, tally))
        except TimeoutError:
            pass
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            tally.seconds = time.perf_counter() - started
            for line in self._lines:
                if line is not None and line.busy:
                    line.abort()
        return tally

    async def _work(self, number: int, scripts: Iterator[Script[T]], tally: Tally[T]) -> None:
        while True:
            line: Line[T] | None = self._lines[number]
            if line is None or not line.open:
                line = self._lines[number] = Line()
                await self._target.connect(line)
            if await line.drive(scripts, tally):
                return


def raise_file_limit() -> None:
    """Every connection is an open file: take as many as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
