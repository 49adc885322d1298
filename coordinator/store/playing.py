"""Playing a transaction on a SQLite connection: step by step, each answered."""

import errno
import logging
import re
import sqlite3
import zlib
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from typing import Any

from coordinator.store.segments import Segments, segment_name
from coordinator.store.sql import DamagedRow, Query, Row, Step, Steps

log = logging.getLogger(__name__)

_TRANSACTIONS_OWN = frozenset(  # what a statement does wrong; anything else is the database's
    (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_MISUSE,
    )
)


class Lost(Exception):
    """The database failed, not the transaction: `__cause__` says how. Whatever was not committed
    may be undone already."""


def play(steps: Steps[Any], answer: Callable[[Step], Any]) -> Any:
    """Run a transaction; returns what it returns. Raises what it raises, or `Lost`, which it does
    not get to see."""
    try:
        step = next(steps)
        while True:
            try:
                found = answer(step)
            except Exception as error:
                if is_lost(error):
                    steps.close()
                    raise Lost(str(error)) from error
                step = steps.throw(error)
            else:
                step = steps.send(found)
    except StopIteration as done:
        return done.value


def is_lost(error: BaseException) -> bool:
    """Whether an error is the database's: SQLite may have rolled everything back on it."""
    if isinstance(error, Lost):
        return True
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF not in _TRANSACTIONS_OWN


def answer_query(database: sqlite3.Connection, query: Query) -> list[Row]:
    """The rows of a statement. All are fetched: a statement is done only then. Raises
    `DamagedRow`."""
    try:
        # Closed whatever happens: a statement that stands on a row holds the reader to that moment
        # of the database, for good.
        with closing(database.execute(_translated(query.text), query.values)) as cursor:
            found: list[Row] = cursor.fetchall()
    except sqlite3.OperationalError as error:
        if not hasattr(error, "sqlite_errorcode"):  # not SQLite's: the text is no UTF-8
            raise DamagedRow(str(error)) from None
        raise
    return found


def answer_recall(
    database: sqlite3.Connection, segments: Segments, assignment: str
) -> bytes | None:
    """The bytes of a kept update; `None` when they are gone, or damaged, which is said."""
    row = database.execute(
        "SELECT task, round, node, start, length, crc FROM payloads WHERE assignment = ?1",
        (assignment,),
    ).fetchone()
    if row is None:
        return None
    task, round, node, start, length, crc = row
    name = segment_name(task, round, node)
    try:
        data = segments.read(name, start, length)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EIO):
            raise  # it may be there: too many open files, say, pass
        log.error("the update of %s cannot be read: %s", assignment, error)
        return None
    if len(data) != length or zlib.crc32(data) != crc:
        log.error("the update of %s is damaged: %s, from %d on", assignment, name, start)
        return None
    return data


@lru_cache(maxsize=1024)
def _translated(text: str) -> str:
    """`$1` is a name to SQLite, `?1` a place; a transaction locks all rows, so none for itself."""
    return re.sub(r"\$(\d+)", r"?\1", re.sub(r"\s+FOR UPDATE\b", "", text))
