"""Transactions over PostgreSQL: run until they come through or cannot; every wait has a bound."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from types import GeneratorType
from typing import Any, ParamSpec, TypeVar

from asyncpg import PostgresError

from coordinator.store.postgres import leftovers, schema
from coordinator.store.postgres.clock import DatabaseClock
from coordinator.store.postgres.connections import BROKEN, Connections, drop
from coordinator.store.postgres.leftovers import Leftovers
from coordinator.store.postgres.limits import COLLISION, COLLISIONS, RECONNECT, Limits
from coordinator.store.postgres.listener import Listener
from coordinator.store.postgres.session import Session
from coordinator.store.postgres.troubles import Damaged, Trouble, trouble
from coordinator.store.sql import Steps, StoreUnavailable, rows
from schedules.clock import Clock

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")

_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"  # one state of things, whatever is asked
_CLOSED = "the store is closed"
_TRIPS = 5  # to the database's clock, of which the quickest counts
_NOW = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_PROBE = "INSERT INTO meta VALUES ('probe', '') ON CONFLICT (key) DO UPDATE SET value = ''"


class PostgresStore:
    """A `Store` over a PostgreSQL database. Use `open_postgres`.

    After a deadlock or a lost connection a transaction runs again, from the start. One that takes a
    generator as an argument, which is used up by then, is not.
    """

    def __init__(self, url: str, node: str, clock: Clock, limits: Limits) -> None:
        self._where = schema.address(url)
        self._clock = clock
        self._limits = limits
        self._teller = uuid.uuid4().hex
        self._connections = Connections(url, node, limits)
        self._database_clock = DatabaseClock(clock)
        self._writers = asyncio.Semaphore(limits.writers)
        self._surveys = asyncio.Semaphore(1)  # the connections are for who does not take long
        self._listener = Listener(self._teller, self._connections.connect, self._measure, limits)
        self._leftovers = Leftovers(
            partial(self.read, leftovers.discarded),
            lambda task, number: self.run(leftovers.delete_some, task, number),
            limits.leftovers,
        )
        self._damaged: set[str] = set()
        self._group: asyncio.TaskGroup
        self._begun: set[asyncio.Task[None]] = set()
        self._closing = False

    # Life

    async def prepare(self) -> None:
        """Make the tables where there are none, and look at the clock. Raises `StoreError`."""
        try:
            statements = await asyncio.to_thread(schema.statements)
            connection = await self._connections.connect()
            try:
                await schema.prepare(connection, statements, self._where)
                await self._measure(connection)
            finally:
                connection.terminate()
        except (*BROKEN, ValueError) as error:
            raise schema.refusal(error, self._where) from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take transactions. On the way out those that were begun are finished."""
        try:
            async with self._connections.pooled(), asyncio.TaskGroup() as self._group:
                serving = [
                    self._group.create_task(self._listener.run(), name="database listener"),
                    self._group.create_task(self._leftovers.run(), name="leftovers"),
                ]
                try:
                    await self._listener.started()
                    yield
                finally:
                    await self.close()
                    for task in serving:
                        task.cancel()
        except BaseExceptionGroup as failures:
            # The first one is the body's own, or what had the body cancelled.
            raise failures.exceptions[0] from None

    async def close(self) -> None:
        """Finish what was begun; begin nothing more."""
        self._closing = True
        while self._begun:
            await asyncio.wait(self._begun)

    async def check(self) -> None:
        """Raises `StoreUnavailable` unless the database takes something now: a standby and a full
        disk do not."""
        try:
            async with asyncio.timeout(self._limits.connect):
                await self.run(rows, _PROBE)
        except TimeoutError:
            reason = f"{self._where} does not answer in {self._limits.connect:.0f} s"
            raise StoreUnavailable(reason) from None

    # The clock, and word from others

    @property
    def shared(self) -> bool:
        return True

    def now(self) -> float:
        return self._database_clock.now()

    async def changed(self, timeout: float) -> None:  # noqa: ASYNC109
        await self._listener.changed(timeout)

    async def _measure(self, connection: Any) -> None:
        trips = []
        for _ in range(_TRIPS):
            before = self._clock.monotonic()
            answer = await connection.fetchval(_NOW)
            trips.append((before, answer, self._clock.monotonic()))
        self._database_clock.take(trips)

    # Transactions

    async def run(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._closing:
            raise StoreUnavailable(_CLOSED)
        once = partial(self._write, partial(transaction, *args, **kwargs))
        return await self._owned(self._through(once, _restartable(*args, *kwargs.values())))

    async def read(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._closing:
            raise StoreUnavailable(_CLOSED)
        once = partial(self._look, partial(transaction, *args, **kwargs))
        return await self._through(once, _restartable(*args, *kwargs.values()))

    async def survey(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        try:
            async with asyncio.timeout(self._limits.acquire):
                await self._surveys.acquire()
        except TimeoutError:
            raise StoreUnavailable(f"{self._where}: another look at it takes too long") from None
        try:
            return await self.read(transaction, *args, **kwargs)
        finally:
            self._surveys.release()

    async def _owned(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that goes on to its end when the wait is cancelled."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(_deliver(work, outcome), name="transaction")
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return await asyncio.shield(outcome)

    async def _through(self, once: Callable[[], Awaitable[T]], restartable: bool) -> T:
        """Run a transaction, from the start, until it comes through or cannot."""
        failures = 0
        until = self._clock.monotonic() + self._limits.patience
        while True:
            try:
                return await once()
            except Exception as error:
                kind = trouble(error)
                if kind is None:
                    raise
                failures += 1
                if not restartable or self._hopeless(kind, failures, until):
                    raise StoreUnavailable(f"{self._where}: {_said(error)}") from error
                backoff = RECONNECT if kind is Trouble.AWAY else COLLISION
            await asyncio.sleep(backoff.delay(failures, random.random()))  # noqa: S311

    def _hopeless(self, kind: Trouble, failures: int, until: float) -> bool:
        match kind:
            case Trouble.COLLISION:
                return failures > COLLISIONS
            case Trouble.AWAY:
                return self._connections.closed or self._clock.monotonic() > until
        return True

    async def _write(self, steps: Callable[[], Steps[T]]) -> T:
        async with asyncio.timeout(self._limits.acquire):
            await self._writers.acquire()
        try:
            async with self._connections.lent() as connection:
                await connection.execute(_WRITE)
                session = Session(connection, self._teller, self._damaged, writes=True)
                result = await self._drive(session, steps)
                await self._commit(connection)
        finally:
            self._writers.release()
        if session.tells:
            self._listener.tell()
        if session.discards:
            self._leftovers.look()
        return result

    async def _look(self, steps: Callable[[], Steps[T]]) -> T:
        async with self._connections.lent() as connection:
            await connection.execute(_READ)
            session = Session(connection, self._teller, self._damaged, writes=False)
            result = await self._drive(session, steps)
            await connection.execute("COMMIT")
        return result

    async def _drive(self, session: Session, steps: Callable[[], Steps[T]]) -> T:
        try:
            return await session.drive(steps())
        except Damaged as error:
            log.error("the database cannot read the update of %s", error.assignment)
            self._damaged.add(error.assignment)
            raise

    async def _commit(self, connection: Any) -> None:
        try:
            done = await connection.execute("COMMIT")
        except Exception as error:
            if isinstance(error, PostgresError) and trouble(error) in (None, Trouble.COLLISION):
                raise  # the database itself said no
            drop(connection)
            raise StoreUnavailable(
                f"{self._where}: lost at a commit, of which it is not known whether it happened: "
                f"{_said(error)}"
            ) from error
        if done != "COMMIT":
            raise StoreUnavailable(f"{self._where}: the database answered {done} to a commit")


@asynccontextmanager
async def open_postgres(
    url: str,
    node: str,
    clock: Clock,
    limits: Limits = Limits(),  # noqa: B008
) -> AsyncIterator[PostgresStore]:
    """A store over the database at `url`, its tables made if there are none.

    What the URL leaves out comes from the environment, as for `psql`: PGPASSWORD, PGPASSFILE
    (`~/.pgpass`), PGSSLMODE. `node` names this process to the database's operator. Raises
    `StoreError`.
    """
    store = PostgresStore(url, node, clock, limits)
    await store.prepare()
    async with store.running():
        yield store


def _restartable(*values: object) -> bool:
    return not any(isinstance(value, GeneratorType) for value in values)


async def _deliver(work: Coroutine[Any, Any, T], outcome: asyncio.Future[T]) -> None:
    try:
        result = await work
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except Exception as error:  # noqa: BLE001
        outcome.set_exception(error)
        outcome.exception()  # seen: whoever waited may have been cancelled
    else:
        outcome.set_result(result)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or "time is up"
