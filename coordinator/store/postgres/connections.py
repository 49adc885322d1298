"""Connections: how ours are set up, lent to one transaction at a time, dropped when in doubt."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
from asyncpg import PostgresError

from coordinator.store.postgres import dialect
from coordinator.store.postgres.limits import Limits

# A host that vanishes must not hold its locks for long: the server looks whether it is there.
_SESSION = {
    "idle_in_transaction_session_timeout": "30s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25s",
    "client_min_messages": "warning",
}
# From version 14 a server notices in mid-statement, too, that a client is gone.
_START = """SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write');
SELECT set_config('client_connection_check_interval', '5s', false)
WHERE current_setting('server_version_num')::integer >= 140000"""

BROKEN = (OSError, PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a connection raises that is of no use any more."""


class Connections:
    """A bounded number of connections to one database."""

    def __init__(self, url: str, node: str, limits: Limits) -> None:
        self._limits = limits
        self._options: dict[str, Any] = {
            "dsn": url,
            "timeout": limits.connect,
            "command_timeout": limits.command,
            "statement_cache_size": 500,
            "max_cached_statement_lifetime": 0,
            "server_settings": {
                **_SESSION,
                "lock_timeout": f"{limits.command * 667:.0f}",  # ms: sooner than we give up
                "application_name": f"lamplighter {node}"[:63],
            },
        }
        self._pool: Any

    @property
    def closed(self) -> bool:
        closing: bool = self._pool.is_closing()
        return closing

    async def connect(self) -> Any:
        """A connection of the caller's own. Raises what asyncpg does."""
        connection = await asyncpg.connect(**self._options)
        try:
            await _set_up(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    @asynccontextmanager
    async def pooled(self) -> AsyncIterator[None]:
        """Have connections to lend."""
        self._pool = await asyncpg.create_pool(
            **self._options,
            min_size=0,
            max_size=self._limits.writers + self._limits.readers,
            max_queries=1_000_000,
            init=_set_up,
            reset=_nothing,  # a transaction leaves nothing in its session: that saves a round trip
        )
        try:
            yield
        finally:
            try:
                async with asyncio.timeout(self._limits.connect):
                    await self._pool.close()
            except BROKEN:
                self._pool.terminate()

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Any]:
        """A connection for one transaction, which is undone when the body raises."""
        connection = await self._pool.acquire(timeout=self._limits.acquire)
        try:
            yield connection
        except BaseException:
            await _undo(connection)
            raise
        finally:
            try:
                await self._pool.release(connection, timeout=self._limits.command)
            except BROKEN:  # after a commit this is no failure of the transaction
                drop(connection)


async def _set_up(connection: Any) -> None:
    await dialect.set_codecs(connection)
    await connection.execute(_START)


async def _nothing(_: Any) -> None:
    pass


def drop(connection: Any) -> None:
    """Be rid of a connection. One that broke has left the pool by itself, and says so."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


async def _undo(connection: Any) -> None:
    """Roll back; or drop the connection where that fails."""
    try:
        # After a statement that was given up, asyncpg has it cancelled first: else it would go on
        # in the server, and hold its locks.
        await connection.execute("ROLLBACK")
    except BaseException as error:
        drop(connection)
        if not isinstance(error, BROKEN):
            raise
