"""What the SQLite writer clears away once a transaction is durable: segments that nobody needs any
more, and the bytes of a device that has left, on the disk and in the log.

A segment goes only when the log is empty, and the database's file itself knows that it is not
needed. A log that the disk damages takes back what was in it: were the segment gone by then, the
updates of a round that was open once more would be in no model.
"""

import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from coordinator.store.opening import BUSY_SECONDS
from coordinator.store.segments import Owner, Segments, segment_name

log = logging.getLogger(__name__)

_EMPTY_MS = 100  # that emptying the log waits for readers
_AGAIN_SECONDS = 5.0  # until the next try: each may hold up who writes


class Clearing:
    """Blocking; used by the writer's thread, between its groups. `turn` lets one process write at a
    time; `now` is the store's clock; `unlink` removes a file, later."""

    def __init__(
        self,
        database: sqlite3.Connection,
        segments: Segments,
        *,
        turn: Callable[[], AbstractContextManager[None]],
        now: Callable[[], float],
        unlink: Callable[[Path], None],
    ) -> None:
        self._sql, self._segments = database, segments
        self._turn, self._now, self._unlink = turn, now, unlink
        self._gone: list[Owner] = []
        self._not_before = float("-inf")
        self._log_to_empty = False

    @property
    def unfinished(self) -> bool:
        """Whether something that was wiped may still be in the log."""
        return self._log_to_empty

    def remove(self, gone: Sequence[Owner]) -> None:
        """Delete these segments and those that had to wait, now or, while somebody reads the log,
        at a later call; at the latest when the coordinator starts again."""
        self._gone += gone
        if not self._gone or self._now() < self._not_before:
            return
        if not self._known_for_good():
            self._not_before = self._now() + _AGAIN_SECONDS
            return
        removed, self._gone = self._gone, []
        for segment in removed:
            self._remove(segment)

    def wipe(self) -> None:
        """Overwrite what was discarded by name: in the segments, and in the log, which holds the
        pages as they were until it is emptied. Deleted rows were overwritten by SQLite."""
        try:
            with self._turn():
                for segment, start, length in self._sql.execute("SELECT * FROM wipes").fetchall():
                    self._segments.wipe(segment, start, length)
                self._sql.execute("DELETE FROM wipes")
            self._log_to_empty = not self._empty_log()
        except (sqlite3.Error, OSError) as error:
            # The deletion itself is durable. The rest is done with the next, or at the next start.
            self._log_to_empty = True
            log.warning("what was deleted is not overwritten yet: %s", error)

    def _known_for_good(self) -> bool:
        try:
            return self._empty_log()
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
                return True  # the room is needed more
            log.warning("updates that are in a model are not deleted yet: %s", error)
            return False

    def _remove(self, segment: Owner) -> None:
        with self._turn():  # no process appends to it now
            if self._sql.execute(
                "SELECT 1 FROM payloads WHERE task = ?1 AND round = ?2 AND node = ?3", segment
            ).fetchall():
                return  # the round was used again
            aside = self._segments.put_aside(segment_name(*segment))
        if aside is not None:
            self._unlink(aside)

    def _empty_log(self) -> bool:
        """Whether it could be: not while somebody reads what is in it."""
        try:
            self._sql.execute(f"PRAGMA busy_timeout = {_EMPTY_MS}").fetchall()
            row = self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not row["busy"]
        finally:
            self._sql.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}").fetchall()
