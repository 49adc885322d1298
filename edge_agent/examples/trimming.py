"""Examples leave the device's disk: by retention, or all of them.

Only regular files of a folder itself that have a known suffix are touched; links are left alone.
In SQLite files rows go, not the file, which a local program may have open; for that the agent must
be that program's user, or both be of one group that may write the file and the folder.

What deletion means. Afterwards no file of the folder holds the data: rows are overwritten with
zeros, SQLite's journals are emptied, files are unlinked. The blocks that a file occupied are not
overwritten: on flash (SD cards, eMMC, SSDs) and on copying file systems a write goes elsewhere, so
that would wear the device and reach nothing. Until the device erases those blocks in its own
time, somebody with the bare chip may find old data; so may one with backups. Only encryption of the
disk protects against that.

All of it blocks: it runs in the training child, or in a command.
"""

import sqlite3
from pathlib import Path

from edge_agent.examples.folder import bytes_in, examples_in, is_sqlite, ours, planned
from edge_agent.examples.retention import Piece, Retention, Trimmed
from edge_agent.examples.sqlite_store import TABLE, WHEN, columns_of, connected
from edge_agent.examples.store import Unreadable

_PASSES = 3  # how much space a row takes is known on average only
_ROWS_AT_ONCE = 1000  # in a transaction: other programs wait for its end
_SECONDS = 600.0  # for one SQLite file, at most: an SD card is slow
_FREE_PART = 4  # an SQLite file is made smaller when one page in so many is free
_INCREMENTAL = 2  # SQLite's auto_vacuum


class _Tally:
    """What went so far."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before = bytes_in(folder)
        self.examples = 0
        self.files = 0
        self.problems: list[str] = []

    def count_file(self, examples: int) -> None:
        self.examples += examples
        self.files += 1

    def failed(self, name: str, error: Exception) -> None:
        text = error.strerror if isinstance(error, OSError) else None
        self.problems.append(f"{name}: {text or error}")

    def trimmed(self) -> Trimmed:
        gone = max(0, self._before - bytes_in(self._folder))
        return Trimmed(self.examples, self.files, gone, tuple(dict.fromkeys(self.problems)))


def enforce(folder: Path, retention: Retention, now: float) -> Trimmed:
    """Delete what `retention` does not allow at `now`, Unix seconds of a clock that is set.

    What cannot be deleted now (a read-only folder, a database that is locked) is among the
    problems, and goes next time.
    """
    tally = _Tally(folder)
    for _ in range(_PASSES):
        if not _trim(folder, retention, now, tally):
            break
    return tally.trimmed()


def forget(folder: Path) -> Trimmed:
    """Delete all examples of a folder. SQLite files stay, empty, for the programs that append to
    them. What could not be deleted is among the problems."""
    tally = _Tally(folder)
    paths, problems = ours(folder)
    tally.problems += problems
    for path in paths:
        try:
            if is_sqlite(path):
                _delete_all(path, tally)
            else:
                held = examples_in(path)
                path.unlink()
                tally.count_file(held)
        except (OSError, Unreadable) as error:
            tally.failed(path.name, error)
    return tally.trimmed()


def _trim(folder: Path, retention: Retention, now: float, tally: _Tally) -> bool:
    """Once; whether to look again."""
    plan = planned(folder, retention, now)
    tally.problems += plan.problems
    noticed = len(tally.problems)
    rows = {name: part.last for name, part in plan.parts.items() if part.last.row is not None}
    for name in plan.parts.keys() - rows.keys():
        try:
            (folder / name).unlink()
            tally.examples, tally.files = (
                tally.examples + plan.parts[name].examples,
                tally.files + 1,
            )
        except OSError as error:
            tally.failed(name, error)
    large = retention.bytes is not None and bytes_in(folder) > retention.bytes
    for path in ours(folder)[0]:
        if is_sqlite(path) and (path.name in rows or large or _journal_has_content(path)):
            try:
                _delete(path, rows.get(path.name), large, tally)
            except (OSError, Unreadable) as error:
                # Where nothing is to go, a database in use is none of our business.
                if path.name in rows or large:
                    tally.failed(path.name, error)
    if plan.left.beyond(retention):
        tally.problems.append("the limits cannot be kept: one file alone is beyond them")
    return bool(plan.parts) and len(tally.problems) == noticed


def _journal_has_content(path: Path) -> bool:
    """Perhaps of rows that went earlier, when another program was reading them."""
    journal = path.with_name(path.name + "-wal")
    return journal.is_file() and journal.stat().st_size > 0


def _delete(path: Path, last: Piece | None, large: bool, tally: _Tally) -> None:
    """Delete rows up to `last`; give space back when much is free, or the file is too `large`."""
    with connected(path, "mode=rw", _SECONDS) as db:
        columns_of(db)
        db.execute("PRAGMA secure_delete = ON")
        if last is not None:
            tally.examples += _delete_rows(db, last)
        free, pages, kind = (
            db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("freelist_count", "page_count", "auto_vacuum")
        )
        if free and (large or free * _FREE_PART > pages):
            # Whole rewriting wears the flash: it is for files that cannot do less.
            # As a script: else only the first step of the incremental way is done.
            db.executescript("PRAGMA incremental_vacuum" if kind == _INCREMENTAL else "VACUUM")
        _empty_journal(db)


def _delete_rows(db: sqlite3.Connection, last: Piece) -> int:
    """A few at a time, so that no other program waits for long."""
    query = (
        f"DELETE FROM {TABLE} WHERE rowid IN (SELECT rowid FROM {TABLE} "  # noqa: S608
        f"WHERE ({WHEN}, rowid) <= (?, ?) LIMIT {_ROWS_AT_ONCE})"
    )
    gone = 0
    while deleted := db.execute(query, (last.made, last.row)).rowcount:
        gone += deleted
    return gone


def _delete_all(path: Path, tally: _Tally) -> None:
    with connected(path, "mode=rw", _SECONDS) as db:
        columns_of(db)
        db.execute("PRAGMA secure_delete = ON")
        tally.examples += db.execute(f"DELETE FROM {TABLE}").rowcount  # noqa: S608
        # Other programs may have deleted rows before, without overwriting them.
        db.execute("VACUUM")
        _empty_journal(db)


def _empty_journal(db: sqlite3.Connection) -> None:
    """Write the journal's pages to their places and cut it off: it holds what rows were before.
    Raises `Unreadable` when another program is in the middle of reading them."""
    busy, _, _ = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise Unreadable("in use: what was deleted is in its journal until the next time")
