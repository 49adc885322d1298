"""A store with its metrics: how many transactions it has to do, and how long each takes."""

from collections.abc import Callable
from time import perf_counter
from typing import ParamSpec, TypeVar

from coordinator.metrics import Metrics
from coordinator.store.sql import Steps, Store

P = ParamSpec("P")
T = TypeVar("T")


class WatchedStore:
    """A `coordinator.store.sql.Store` over another, `within`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self.within = store
        self._writing = metrics.store_waiting.labels("write")
        self._reading = metrics.store_waiting.labels("read")
        self._write_seconds = metrics.store_seconds.labels("write")
        self._read_seconds = metrics.store_seconds.labels("read")
        self._surveying = metrics.store_waiting.labels("survey")
        self._survey_seconds = metrics.store_seconds.labels("survey")

    @property
    def shared(self) -> bool:
        """Whether other processes may be over it, too."""
        return self.within.shared

    def now(self) -> float:
        """Seconds since the epoch; goes forward only."""
        return self.within.now()

    async def run(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction; durable on return."""
        self._writing.inc()
        start = perf_counter()
        try:
            return await self.within.run(transaction, *args, **kwargs)
        finally:
            self._writing.dec()
            self._write_seconds.observe(perf_counter() - start)

    async def read(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one that only looks."""
        self._reading.inc()
        start = perf_counter()
        try:
            return await self.within.read(transaction, *args, **kwargs)
        finally:
            self._reading.dec()
            self._read_seconds.observe(perf_counter() - start)

    async def survey(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one that only looks, and takes its time."""
        self._surveying.inc()
        start = perf_counter()
        try:
            return await self.within.survey(transaction, *args, **kwargs)
        finally:
            self._surveying.dec()
            self._survey_seconds.observe(perf_counter() - start)

    async def changed(self, timeout: float) -> None:  # noqa: ASYNC109
        """Returns when something was told, or after `timeout` seconds."""
        await self.within.changed(timeout)

    async def check(self) -> None:
        """Raises `StoreUnavailable`, which says why, unless it takes something at this moment."""
        await self.within.check()

    async def close(self) -> None:
        """Finish what was begun and let go."""
        await self.within.close()
