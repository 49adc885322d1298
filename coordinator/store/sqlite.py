"""The store on one machine: a SQLite file (WAL), and segments for the bytes of updates.

One thread writes, one reads, one reads what takes long. Transactions that wait for the writer are
made durable together: see `coordinator.store.writing`. With `shared`, several processes of one
machine are over the same file:

    with lock_state(state):  # the one that starts and watches them
        anchor = prepare(state, clock)
        ...  # each: open_sqlite(state, node, clock, shared=True, anchor=anchor)
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar, cast

from coordinator.store.lane import Lane
from coordinator.store.opening import (
    BUSY_SECONDS,
    DATABASE_FILE,
    SPOOL_FOLDER,
    anchor_of,
    connect,
    lock_state,
    lock_worker,
    prepare,
    trouble,
    troubles,
)
from coordinator.store.reading import Reader
from coordinator.store.segments import Segments, segment_name
from coordinator.store.sql import Steps, StoreError, StoreUnavailable, one, rows
from coordinator.store.turns import Turns
from coordinator.store.writing import Writer
from schedules.clock import Clock

log = logging.getLogger(__name__)

__all__ = ["SqliteStore", "lock_state", "open_sqlite", "prepare"]

P = ParamSpec("P")
T = TypeVar("T")

_LOOK_SECONDS = 0.05  # how often a shared store looks whether another process has told something
_PROBE_SECONDS = 5.0  # that a write may take while the store is called in order


class _Opened:
    """What a store holds open; made and closed in a thread."""

    def __init__(
        self, state: Path, node: str, clock: Clock, shared: bool, anchor: float | None
    ) -> None:
        segment_name("task", 0, node)  # raises for a name that is none
        self.path = state / DATABASE_FILE
        with ExitStack() as held, troubles(self.path):
            held.enter_context(lock_worker(state) if shared else lock_state(state))
            found = None if shared else prepare(state, clock)
            self.segments = Segments(state / SPOOL_FOLDER)
            self.writing, self.reading, self.surveying = (
                self._connection(held, state) for _ in range(3)
            )
            self.turns = Turns(state, BUSY_SECONDS) if shared else None
            if self.turns is not None:
                held.callback(self.turns.close)
            if anchor is None:
                anchor = anchor_of(self.writing, clock) if found is None else found
            self.anchor = anchor
            for looking in (self.reading, self.surveying):
                looking.execute("PRAGMA query_only = ON")
            self.told = int(self.reading.execute("SELECT told FROM driver").fetchone()["told"])
            self._held = held.pop_all()

    @staticmethod
    def _connection(held: ExitStack, state: Path) -> sqlite3.Connection:
        connection = connect(state)
        held.callback(connection.close)
        return connection

    def close(self) -> None:
        """Everything, the lock last."""
        self._held.close()


class SqliteStore:
    """A `coordinator.store.sql.Store`. Use `open_sqlite`. Called on one event loop."""

    def __init__(self, opened: _Opened, node: str, clock: Clock, shared: bool) -> None:
        self._opened, self._clock, self._shared = opened, clock, shared
        self._known, self._news = opened.told, asyncio.Event()
        self._janitor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-unlink")
        self._writer = Writer(
            opened.writing,
            opened.segments,
            path=opened.path,
            node=node,
            turn=nullcontext if opened.turns is None else opened.turns.turn,
            now=self.now,
            told=lambda number: self._writing.tell(self._hear, number),
            unlink=self._unlink_later,
        )
        self._reader, self._surveyor = (
            Reader(connection, opened.segments, opened.path)
            for connection in (opened.reading, opened.surveying)
        )
        self._writing = Lane("store-write", self._writer.serve, self._writer.after)
        self._reading = Lane("store-read", self._reader.serve)
        self._surveying = Lane("store-survey", self._surveyor.serve)
        self._closing = False

    @property
    def shared(self) -> bool:
        """Whether other processes may be over it, too."""
        return self._shared

    @property
    def anchor(self) -> float:
        """The store's time less the clock's monotonic one; the same for all who share it."""
        return self._opened.anchor

    def now(self) -> float:
        """Seconds since the epoch; goes forward only."""
        return self._opened.anchor + self._clock.monotonic()

    async def run(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction; durable on return. Cancelling the wait does not undo it."""
        return cast(T, await self._writing.ask(partial(transaction, *args, **kwargs)))

    async def read(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one that only looks. Raises `ValueError` when it would change something."""
        return cast(T, await self._reading.ask(partial(transaction, *args, **kwargs)))

    async def survey(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `read`; those that read do not wait for it."""
        return cast(T, await self._surveying.ask(partial(transaction, *args, **kwargs)))

    async def changed(self, timeout: float) -> None:  # noqa: ASYNC109
        """Returns when some process has told of something, or after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._news.is_set() and (left := deadline - loop.time()) > 0:
            try:
                async with asyncio.timeout(min(left, _LOOK_SECONDS) if self._shared else left):
                    await self._news.wait()
            except TimeoutError:
                if self._shared:
                    self._hear(await self.read(_told))
        self._news.clear()

    async def check(self) -> None:
        """Raises `StoreUnavailable` unless it takes something now: a row, and bytes on the disk."""
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self.run(self._probe)
        except TimeoutError:
            reason = f"{self._opened.path} takes nothing in {_PROBE_SECONDS:.0f} s: check its disk"
            raise StoreUnavailable(reason) from None

    async def close(self) -> None:
        """Finish what was begun and let go."""
        if self._closing:
            return
        self._closing = True
        self._writing.stop()
        self._reading.stop()
        self._surveying.stop()
        # In one piece: it comes to its end also when nobody waits for it any more.
        await asyncio.to_thread(self._finish)

    def _finish(self) -> None:
        self._writing.join()
        self._reading.join()
        self._surveying.join()
        self._janitor.shutdown()
        self._reader.close()
        self._surveyor.close()
        self._writer.close()
        self._opened.close()

    def _unlink_later(self, path: Path) -> None:
        # Gigabytes take their time: no transaction waits for it.
        self._janitor.submit(_unlink, path)

    def _hear(self, told: int) -> None:
        if told > self._known:
            self._known = told
            self._news.set()

    def _probe(self) -> Steps[None]:
        yield from rows("UPDATE driver SET clock = max(clock, $1)", self.now())
        try:
            self._opened.segments.probe()
        except OSError as error:
            raise StoreUnavailable(trouble(self._opened.path, error)) from error


@asynccontextmanager
async def open_sqlite(
    state: Path, node: str, clock: Clock, *, shared: bool = False, anchor: float | None = None
) -> AsyncIterator[SqliteStore]:
    """Open the store in the folder `state`, for the process named `node` (a wire id).

    Alone, it locks, checks and tidies the folder. With `shared` another process has done so and
    holds it (`lock_state`, `prepare`), and `anchor` is what that found. Raises `StoreError`.
    """
    opened = await asyncio.to_thread(_Opened, state, node, clock, shared, anchor)
    store = SqliteStore(opened, node, clock, shared)
    try:
        yield store
    finally:
        await store.close()


def _told() -> Steps[int]:
    row = yield from one("SELECT told FROM driver")
    if row is None:
        raise StoreError("the database has lost its driver row: restore it from a backup")
    return int(row["told"])


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s stays until the next start: %s", path, error)
