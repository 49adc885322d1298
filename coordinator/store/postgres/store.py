"""Transactions over PostgreSQL: connections, retries, and a bound on every wait."""

import asyncio
import logging
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

import asyncpg
from asyncpg import PostgresError

from coordinator.store.postgres import dialect, leftovers, schema
from coordinator.store.postgres.clock import DatabaseClock
from coordinator.store.postgres.leftovers import Leftovers
from coordinator.store.postgres.limits import COLLISION, COLLISIONS, RECONNECT, Limits
from coordinator.store.postgres.listener import Listener
from coordinator.store.postgres.session import Damaged, Session
from coordinator.store.postgres.troubles import Trouble, trouble
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
_DURABLE = """SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')"""

# A host that vanishes must not hold its locks for long: the server looks whether it is there.
_SESSION = {
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25s",
    "client_min_messages": "warning",
}


class PostgresStore:
    """A `Store` over a PostgreSQL database. Use `open_postgres`."""

    def __init__(self, url: str, node: str, clock: Clock, limits: Limits) -> None:
        self._where = schema.address(url)
        self._clock = clock
        self._limits = limits
        self._teller = uuid.uuid4().hex
        self._options: dict[str, Any] = {
            "dsn": url,
            "timeout": limits.connect,
            "command_timeout": limits.command,
            "statement_cache_size": 500,
            "max_cached_statement_lifetime": 0,
            "server_settings": {**_SESSION, "application_name": f"lamplighter {node}"[:63]},
        }
        self._database_clock = DatabaseClock(clock)
        self._writers = asyncio.Semaphore(limits.writers)
        self._listener = Listener(self._teller, self._connect, self._measure, limits)
        self._leftovers = Leftovers(
            lambda: self.read(leftovers.discarded),
            lambda task, number: self.run(leftovers.delete_some, task, number),
            limits.leftovers,
        )
        self._damaged: set[str] = set()
        self._pool: Any
        self._group: asyncio.TaskGroup
        self._begun: set[asyncio.Task[None]] = set()
        self._closing = False

    # Life

    async def prepare(self) -> None:
        """Make the tables where there are none, and look at the clock. Raises `StoreError`."""
        try:
            statements = await asyncio.to_thread(schema.statements)
            connection = await self._connect()
            try:
                await schema.prepare(connection, statements, self._where)
                await self._measure(connection)
            finally:
                connection.terminate()
        except (OSError, PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise schema.refusal(error, self._where) from None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take transactions. On the way out those that were begun are finished."""
        try:
            async with self._pooled(), asyncio.TaskGroup() as self._group:
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

    @asynccontextmanager
    async def _pooled(self) -> AsyncIterator[None]:
        self._pool = await asyncpg.create_pool(
            **self._options,
            min_size=0,
            max_size=self._limits.writers + self._limits.readers,
            max_queries=1_000_000,
            init=_prepare_session,
            reset=_nothing,  # a transaction leaves nothing in its session: that saves a round trip
        )
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(self._limits.connect):
                    await self._pool.close()
            except (OSError, PostgresError, asyncpg.InterfaceError):
                self._pool.terminate()

    async def close(self) -> None:
        """Finish what was begun; begin nothing more."""
        self._closing = True
        while self._begun:
            await asyncio.wait(self._begun)

    async def _connect(self) -> Any:
        connection = await asyncpg.connect(**self._options)
        try:
            await _prepare_session(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

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

    async def healthy(self) -> bool:
        """Whether the database takes something now: a standby and a full disk do not."""
        try:
            async with asyncio.timeout(self._limits.connect):
                await self.run(rows, _PROBE)
        except (StoreUnavailable, TimeoutError):
            return False
        return True

    # Transactions

    async def run(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._owned(
            self._again(lambda: self._write(lambda: transaction(*args, **kwargs)))
        )

    async def read(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._closing:
            raise StoreUnavailable(_CLOSED)
        return await self._again(lambda: self._once(_READ, lambda: transaction(*args, **kwargs)))

    async def _owned(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work that goes on to its end when the wait is cancelled."""
        if self._closing:
            work.close()
            raise StoreUnavailable(_CLOSED)
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(_deliver(work, outcome), name="transaction")
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)
        return await asyncio.shield(outcome)

    async def _again(self, once: Callable[[], Awaitable[T]]) -> T:
        """Run a transaction from the start until it comes through, or cannot."""
        collisions = failures = 0
        until = self._clock.monotonic() + self._limits.patience
        while True:
            try:
                return await once()
            except Damaged as error:
                log.error("the database cannot read the update of %s", error)
                self._damaged.add(error.assignment)
                continue
            except Exception as error:
                kind = trouble(error)
                if kind is None:
                    raise
                if kind is Trouble.COLLISION and (collisions := collisions + 1) < COLLISIONS:
                    wait = COLLISION.delay(collisions, random.random())  # noqa: S311
                elif kind is Trouble.AWAY and self._clock.monotonic() < until and not self._closing:
                    failures += 1
                    wait = RECONNECT.delay(failures, random.random())  # noqa: S311
                else:
                    raise StoreUnavailable(f"{self._where}: {_said(error)}") from error
            await asyncio.sleep(wait)

    async def _write(self, steps: Callable[[], Steps[T]]) -> T:
        async with asyncio.timeout(self._limits.acquire):
            await self._writers.acquire()
        try:
            return await self._once(_WRITE, steps)
        finally:
            self._writers.release()

    async def _once(self, begin: str, steps: Callable[[], Steps[T]]) -> T:
        async with self._connection() as connection:
            session = Session(connection, self._teller, self._damaged, begin == _WRITE)
            await connection.execute(begin)
            result = await session.drive(steps())
            await self._commit(connection)
        if session.tells:
            self._listener.tell()
        if session.discards:
            self._leftovers.look()
        return result

    async def _commit(self, connection: Any) -> None:
        try:
            done = await connection.execute("COMMIT")
        except Exception as error:
            if isinstance(error, PostgresError) and trouble(error) in (None, Trouble.COLLISION):
                raise  # the database itself said no
            raise StoreUnavailable(
                f"{self._where}: lost at a commit, of which it is not known whether it happened: "
                f"{_said(error)}"
            ) from error
        if done != "COMMIT":
            raise StoreUnavailable(f"{self._where}: the database answered {done} to a commit")

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection, given back without a transaction on it."""
        connection = await self._pool.acquire(timeout=self._limits.acquire)
        try:
            try:
                yield connection
            except BaseException as error:
                await _undo(connection, error)
                raise
        finally:
            await self._pool.release(connection, timeout=self._limits.command)


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


async def _prepare_session(connection: Any) -> None:
    await dialect.set_codecs(connection)
    await connection.execute(_DURABLE)


async def _nothing(_: Any) -> None:
    pass


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


async def _undo(connection: Any, error: BaseException) -> None:
    """Roll back; or drop the connection where it is not known how it stands."""
    if isinstance(error, asyncio.CancelledError | TimeoutError | StoreUnavailable):
        connection.terminate()
        return
    try:
        await connection.execute("ROLLBACK")
    except (OSError, PostgresError, asyncpg.InterfaceError):
        connection.terminate()


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or "time is up"
