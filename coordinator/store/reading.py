"""The SQLite reader: transactions that only look, on a connection of their own.

In WAL mode a reader sees what was committed and synced, and waits for no writer. Those that wait
together look at the same moment of the database.
"""

import sqlite3
from pathlib import Path
from typing import Any

from coordinator.store.lane import Another, Answer, Asked
from coordinator.store.opening import trouble
from coordinator.store.playing import Lost, answer_query, answer_recall, play
from coordinator.store.segments import Segments
from coordinator.store.sql import Query, Recall, Step, StoreUnavailable

_MOST = 32  # of a batch: each is answered when all are


class Reader:
    """What a reading lane does. The connection is one that refuses to write."""

    def __init__(self, database: sqlite3.Connection, segments: Segments, path: Path) -> None:
        self._sql, self._segments, self._path = database, segments, path

    def serve(self, first: Asked, another: Another) -> list[Answer]:
        """Run a batch."""
        asked = [first]  # drawn before the look: who asks later may have been answered later
        while len(asked) < _MOST and (more := another()) is not None:
            asked.append(more)
        try:
            self._sql.execute("BEGIN")
            return [self._one(each) for each in asked]
        except sqlite3.Error as error:
            return [Answer(a, error=StoreUnavailable(trouble(self._path, error))) for a in asked]
        finally:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the file."""
        self._sql.close()

    def _one(self, asked: Asked) -> Answer:
        try:
            return Answer(asked, play(asked.transaction(), self._answer))
        except Lost as lost:
            cause = lost.__cause__
            reason = trouble(self._path, cause) if isinstance(cause, Exception) else str(lost)
            return Answer(asked, error=StoreUnavailable(reason))
        except BaseException as error:  # noqa: BLE001  its caller is to have it
            return Answer(asked, error=error)

    def _answer(self, step: Step) -> Any:
        if isinstance(step, Recall):
            return answer_recall(self._sql, self._segments, step.assignment)
        if not isinstance(step, Query):
            raise ValueError(f"a read changes nothing: {type(step).__name__}")
        try:
            return answer_query(self._sql, step)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_READONLY:
                raise ValueError(f"a read changes nothing: {step.text}") from None
            raise
