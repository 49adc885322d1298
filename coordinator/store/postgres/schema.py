"""The tables, made once; and what can be wrong with a database, in a line that says what to do."""

import logging
import re
from importlib import resources
from typing import Any, NamedTuple

import asyncpg
from asyncpg import exceptions as pg

from coordinator.store import upgrades
from coordinator.store.postgres import dialect
from coordinator.store.sql import StoreError

log = logging.getLogger(__name__)

VERSION = "3"

_ADDRESS = re.compile(r"(?P<address>([\w.,-]*|\[[\da-f:]+\])(:\d+)?(/[\w-]*)?)(\?.*)?")

_LOCK = 0x6C616D70  # any number that every process of ours takes
_MARK = "UPDATE meta SET value = $1 WHERE key = 'schema_version'"
_MADE = "SELECT to_regclass('meta') IS NOT NULL"

# Ours alone: SQLite's store has files for these. The bytes are compressed already: PostgreSQL is
# told not to try again. A row of `discards`: of this round's kept updates, those up to a number are
# gone for everybody, and deleted piece by piece; see `leftovers`.
_OWN = """
CREATE TABLE payloads (
    assignment TEXT PRIMARY KEY,
    number BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    task TEXT NOT NULL,
    round BIGINT NOT NULL,
    crc BIGINT NOT NULL,
    data BYTEA NOT NULL
);
ALTER TABLE payloads ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE INDEX payloads_by_round ON payloads (task, round, number);
CREATE TABLE discards (
    task TEXT NOT NULL, round BIGINT NOT NULL, last BIGINT NOT NULL, PRIMARY KEY (task, round)
);
CREATE TABLE blobs (
    digest TEXT NOT NULL, part BIGINT NOT NULL, data BYTEA NOT NULL, PRIMARY KEY (digest, part)
);
ALTER TABLE blobs ALTER COLUMN data SET STORAGE EXTERNAL;
"""


class Statements(NamedTuple):
    """What an empty database lacks: the tables of every store, which may be there already, and
    PostgreSQL's own."""

    shared: str
    own: str


def statements() -> Statements:
    """Those of this version. Blocking."""
    shared = resources.files("coordinator.store").joinpath("schema.sql").read_text("utf-8")
    return Statements(dialect.schema(shared), _OWN)


async def prepare(connection: Any, statements: Statements, where: str) -> None:
    """Make the tables where there are none, or those that the version before lacked. Several
    processes may do so at once. Raises `StoreError`."""
    if await connection.fetchval("SHOW server_encoding") != "UTF8":
        raise StoreError(
            f"{where} does not hold UTF-8: create it with createdb -E UTF8 -T template0"
        )
    if await connection.fetchval("SHOW fsync") == "off":
        log.warning("%s runs with fsync = off: a power cut may lose what was acknowledged", where)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        if not await connection.fetchval(_MADE):
            await connection.execute(statements.shared + statements.own)
            await connection.execute("INSERT INTO meta VALUES ('schema_version', $1)", VERSION)
        found = await connection.fetchval("SELECT value FROM meta WHERE key = 'schema_version'")
        if found in upgrades.POSTGRES:
            await connection.execute(upgrades.POSTGRES[found] + statements.shared)
            found = VERSION
            await connection.execute(_MARK, VERSION)
    if found is None:
        raise StoreError(_foreign(where))
    if found != VERSION:
        raise StoreError(
            f"{where} was made by another version of coordinator (schema {found}; this one has "
            f"{VERSION}): use that version, or another database"
        )


def refusal(error: BaseException, where: str) -> StoreError:
    """Why a database cannot be used. Says nothing of what the URL holds but its address."""
    match error:
        case pg.InvalidPasswordError() | pg.InvalidAuthorizationSpecificationError():
            said = f"{where} does not let us in ({error}): check the user and its password"
        case pg.InvalidCatalogNameError():
            said = f"{where}: {error}: create it with createdb"
        case pg.InsufficientPrivilegeError():
            said = f"{where}: {error}: the user must own the database, or have CREATE on its schema"
        case pg.ReadOnlySQLTransactionError():
            said = f"{where} is read-only: name the primary server, not a standby"
        case pg.UndefinedColumnError() | pg.DuplicateTableError():
            said = _foreign(where)
        case TimeoutError() | pg.CannotConnectNowError() | pg.TooManyConnectionsError():
            said = f"{where} does not answer ({error or 'time is up'}): check the server"
        case OSError() | asyncpg.PostgresConnectionError():
            said = f"{where} cannot be reached ({error}): check the address, and that it runs"
        case asyncpg.InterfaceError() | ValueError():
            # Not what it says: a piece of a mistyped URL may be a piece of its password.
            said = f"{where}: no PostgreSQL URL: write postgresql://USER@HOST:5432/DATABASE"
        case _:
            said = f"{where} cannot be used: {error}"
    return StoreError(" ".join(said.split()))


def _foreign(where: str) -> str:
    return f"{where} holds another application's tables: give coordinator a database of its own"


def address(url: str) -> str:
    """The address in a URL, without its password even where that is mistyped."""
    credentials, _, rest = url.rpartition("@")
    found = _ADDRESS.fullmatch(rest.removeprefix("postgresql://").removeprefix("postgres://"))
    if found is None or "?" in credentials or found["address"] in ("", "/"):
        return "the database"
    return f"the database {found['address']}"
