"""The SQLite writer: transactions in groups, each group behind one sync.

A group is one SQLite transaction and each of its members a savepoint, so that one which raises is
undone alone. The order is what makes it safe: the bytes of kept updates are synced first, then the
rows that refer to them are committed, then the callers are answered; files are removed last.
"""

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from coordinator.store.clearing import Clearing
from coordinator.store.lane import Another, Answer, Asked
from coordinator.store.opening import trouble
from coordinator.store.playing import Lost, answer_query, answer_recall, is_lost, play
from coordinator.store.segments import Owner, Segments, segment_name
from coordinator.store.sql import Discard, Keep, Query, Recall, Step, StoreUnavailable, Tell, over

log = logging.getLogger(__name__)

_MOST = 256  # transactions of a group
_MOST_BYTES = 8 << 20  # of the updates that it keeps
_MOST_SECONDS = 0.05  # that it takes before its sync: other processes wait
_SAY_SECONDS = 30.0  # how often a disk that stays full is said
_CLOCK_SECONDS = 1.0  # how often the time that was reached is written down

_PLACES = """INSERT INTO payloads (assignment, task, round, node, start, length, crc)
SELECT column1, $1, $2, $3, column2, column3, column4 FROM {table}"""


@dataclass
class _Effects:
    """What is to be done once a transaction is durable."""

    told: bool = False
    kept: int = 0  # bytes
    gone: list[Owner] = field(default_factory=list)
    wipe: bool = False

    def add(self, other: "_Effects") -> None:
        self.told |= other.told
        self.kept += other.kept
        self.gone += other.gone
        self.wipe |= other.wipe


class Writer:
    """What a writing lane does. `turn` lets one process write at a time; `now` is the store's
    clock; `told` hears how often something was told, in the end; `unlink` removes a file, later.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        segments: Segments,
        *,
        path: Path,
        node: str,
        turn: Callable[[], AbstractContextManager[None]],
        now: Callable[[], float],
        told: Callable[[int], None],
        unlink: Callable[[Path], None],
    ) -> None:
        self._sql, self._segments, self._path, self._node = database, segments, path, node
        self._turn, self._now, self._told = turn, now, told
        self._clearing = Clearing(database, segments, turn=turn, now=now, unlink=unlink)
        self._effects = _Effects()  # of the group
        self._own = _Effects()  # of the transaction that runs
        self._kept: list[Keep] = []  # of that one: not written yet
        self._clock = float("-inf")  # when the time was last written down
        self._failed, self._said = False, float("-inf")

    def serve(self, first: Asked, another: Another) -> list[Answer]:
        """Run a group; durable on return."""
        self._effects, self._failed = _Effects(), False
        asked, answers = [first], list[Answer]()
        try:
            with self._turn():
                self._group(asked, answers, another)
        except (Lost, StoreUnavailable, sqlite3.Error, OSError) as error:
            self._effects = _Effects()
            reason = self._say(error)
            return [Answer(a, error=StoreUnavailable(reason)) for a in asked]
        if not self._failed and self._said > float("-inf"):
            self._said = float("-inf")
            log.info("%s can be written again", self._path)
        if self._effects.wipe or self._clearing.unfinished:
            self._clearing.wipe()  # before the answer: who asks for it relies on it
        return answers

    def after(self) -> None:
        """What follows from a group, once its callers have been answered."""
        self._clearing.remove(self._effects.gone)

    def close(self) -> None:
        """Empty the log into the database and let go."""
        self._segments.close()
        try:
            self._sql.execute("UPDATE driver SET clock = max(clock, ?1)", (self._now(),))
            self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            log.warning("%s is closed as it is: %s", self._path, error)
        self._sql.close()

    # A group

    def _group(self, asked: list[Asked], answers: list[Answer], another: Another) -> None:
        start = time.monotonic()
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            while True:
                answers.append(self._one(asked[-1]))
                full = len(asked) >= _MOST or self._effects.kept >= _MOST_BYTES
                if full or time.monotonic() - start > _MOST_SECONDS:
                    break
                if (more := another()) is None:
                    break
                asked.append(more)
            told = self._count_told()
            self._write_clock()
            self._segments.flush()
            self._sql.execute("COMMIT")
        except BaseException as error:
            self._undo(error)
            raise
        self._segments.settle()
        if told is not None:
            self._told(told)

    def _one(self, asked: Asked) -> Answer:
        self._own, self._kept, mark = _Effects(), [], self._segments.mark()
        self._sql.execute("SAVEPOINT one")
        try:
            value = play(asked.transaction(), self._answer)
            self._write_kept()
        except BaseException as error:
            if is_lost(error):
                raise
            self._sql.execute("ROLLBACK TO one")
            self._sql.execute("RELEASE one")
            self._segments.rewind(mark)
            return Answer(asked, error=error)
        self._sql.execute("RELEASE one")
        self._effects.add(self._own)
        return Answer(asked, value)

    def _undo(self, error: BaseException) -> None:
        """Nothing of the group has happened."""
        try:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            if _may_be_committed(error):
                self._segments.settle()
            else:
                self._segments.rewind()
        except (sqlite3.Error, OSError) as second:
            log.warning("%s: the attempt is not cleared away: %s", self._path, second)
            self._segments.settle()

    def _say(self, error: Exception) -> str:
        if isinstance(error, Lost) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        known = isinstance(error, StoreUnavailable)
        reason = str(error) if known else trouble(self._path, error)
        self._failed, now = True, time.monotonic()
        if now - self._said >= _SAY_SECONDS:  # not for each attempt
            self._said = now
            log.error("nothing can be written: %s", reason)
        return reason

    def _count_told(self) -> int | None:
        if not self._effects.told:
            return None
        (row,) = self._sql.execute("UPDATE driver SET told = told + 1 RETURNING told").fetchall()
        return int(row["told"])

    def _write_clock(self) -> None:
        now = self._now()
        if now - self._clock >= _CLOCK_SECONDS:
            self._sql.execute("UPDATE driver SET clock = max(clock, ?1)", (now,))
            self._clock = now

    # Steps

    def _answer(self, step: Step) -> Any:
        if isinstance(step, Query):
            return answer_query(self._sql, step)
        if isinstance(step, Keep):
            self._kept.append(step)
            return None
        if isinstance(step, Recall):
            self._write_kept()
            return answer_recall(self._sql, self._segments, step.assignment)
        if isinstance(step, Discard):
            return self._discard(step)
        if isinstance(step, Tell):
            self._own.told = True
            return None
        raise TypeError(f"no step of a transaction: {step!r}")

    def _write_kept(self) -> None:
        """What the transaction has kept so far: all at once, before anything asks for it."""
        kept, self._kept = self._kept, []
        for key, group in groupby(kept, key=lambda keep: (keep.task, keep.round)):
            self._append(Owner(*key, self._node), list(group))

    def _append(self, segment: Owner, keeps: list[Keep]) -> None:
        try:
            found = self._segments.append(segment_name(*segment), [keep.data for keep in keeps])
        except OSError as error:
            raise StoreUnavailable(self._say(error)) from error
        places = [(keep.assignment, *place) for keep, place in zip(keeps, found, strict=True)]
        play(over(places, _PLACES, *segment), self._answer)
        self._own.kept += sum(len(keep.data) for keep in keeps)

    def _discard(self, step: Discard) -> None:
        self._write_kept()
        if step.assignment is not None:
            return self._discard_one(step.assignment)
        found = self._sql.execute(
            "SELECT DISTINCT node FROM payloads WHERE task = ?1 AND round = ?2",
            (step.task, step.round),
        ).fetchall()
        self._sql.execute(
            "DELETE FROM payloads WHERE task = ?1 AND round = ?2", (step.task, step.round)
        )
        self._own.gone += [Owner(step.task, step.round, row["node"]) for row in found]

    def _discard_one(self, assignment: str) -> None:
        deleted = self._sql.execute(
            "DELETE FROM payloads WHERE assignment = ?1 RETURNING *", (assignment,)
        ).fetchall()
        for row in deleted:
            name = segment_name(row["task"], row["round"], row["node"])
            # Written down: a crash before the bytes are overwritten must not spare them.
            self._sql.execute(
                "INSERT INTO wipes VALUES (?1, ?2, ?3)", (name, row["start"], row["length"])
            )
        self._own.wipe = True


def _may_be_committed(error: BaseException) -> bool:
    """Whether it is not known if a commit reached the disk: a sync that failed. Then the bytes that
    its rows refer to stay. A disk that was full before the last page has no commit on it."""
    cause = error.__cause__ if isinstance(error, Lost) else error
    code: int = getattr(cause, "sqlite_errorcode", 0)
    return code & 0xFF == sqlite3.SQLITE_IOERR
