"""A look at a folder of examples: what is ours in it, how much it holds, what retention would take.

Nothing is changed here. All of it blocks.
"""

import heapq
import sqlite3
import stat
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_agent.examples.formats import UNREADABLE, files, store_of
from edge_agent.examples.retention import Held, Piece, Retention, going
from edge_agent.examples.sqlite_store import TABLE, WHEN, columns_of, consistently
from edge_agent.examples.store import Unreadable

_JOURNALS = ("-wal", "-journal")
_DAY = 86400.0


class Part(NamedTuple):
    """What goes of one file: all of it, or its rows up to `last` in order of time and rowid."""

    examples: int
    bytes: float
    last: Piece


class Planned(NamedTuple):
    """What goes of which file, what the folder would then hold, and what cannot be judged."""

    parts: dict[str, Part]
    left: Held
    problems: list[str]


class _Rows(NamedTuple):
    """The rows of an SQLite file, oldest first."""

    times: "array[float]"
    ids: "array[int]"
    bytes: int  # that they take, without the pages that are free

    def pieces(self, source: str) -> Iterator[Piece]:
        each = self.bytes / max(1, len(self.ids))
        for made, row in zip(self.times, self.ids, strict=True):
            yield Piece(made, source, 1, each, row)


def is_sqlite(path: Path) -> bool:
    """Whether programs append to it while we look."""
    return path.suffix in (".sqlite", ".db")


def ours(folder: Path) -> tuple[list[Path], list[str]]:
    """The regular files of a folder that have a known suffix, by name; and why others that have
    one are left alone. A folder that cannot be read is such a reason."""
    found: list[Path] = []
    problems: list[str] = []
    try:
        for path in files(folder):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                found.append(path)
            elif stat.S_ISLNK(mode):
                problems.append(f"{path.name}: a link, left alone")
    except OSError as error:
        problems.append(f"{folder}: {error.strerror}")
    return found, problems


def bytes_of(path: Path) -> int:
    """The size of a file, with SQLite's journals beside it."""
    beside = [path.with_name(path.name + suffix) for suffix in _JOURNALS] if is_sqlite(path) else []
    return sum(_size(one) for one in (path, *beside))


def bytes_in(folder: Path) -> int:
    """The size of all our files of a folder."""
    return sum(bytes_of(path) for path in ours(folder)[0])


def examples_in(path: Path) -> int:
    """How many examples a file holds; none, as far as anybody can tell, when it is damaged."""
    try:
        return store_of(path).count(path).rows
    except UNREADABLE:
        return 0


def planned(folder: Path, retention: Retention, now: float) -> Planned:
    """What `retention` does not allow at `now`, Unix seconds."""
    paths, problems = ours(folder)
    streams: list[Iterator[Piece]] = []
    examples, size = 0, 0.0
    for path in paths:
        try:
            if is_sqlite(path):
                rows = consistently(path, _rows)
                future = len(rows.times) - bisect_right(rows.times, now + _DAY)
                if future:
                    problems.append(f"{path.name}: {future} examples are dated in the future")
                streams.append(rows.pieces(path.name))
                examples, size = examples + len(rows.ids), size + rows.bytes
            else:
                piece = Piece(
                    path.stat().st_mtime, path.name, examples_in(path), path.stat().st_size
                )
                streams.append(iter([piece]))
                examples, size = examples + piece.examples, size + piece.bytes
        except (OSError, Unreadable) as error:
            problems.append(f"{path.name}: {error}")
            size += bytes_of(path)
    held, parts = Held(examples, size), dict[str, Part]()
    oldest_first = heapq.merge(*streams, key=lambda piece: piece.made)
    for piece in going(oldest_first, held, retention, now):
        before = parts.get(piece.source, Part(0, 0.0, piece))
        parts[piece.source] = Part(
            before.examples + piece.examples, before.bytes + piece.bytes, piece
        )
        held = Held(held.examples - piece.examples, held.bytes - piece.bytes)
    return Planned(parts, held, problems)


def _rows(db: sqlite3.Connection) -> _Rows:
    if "at" not in columns_of(db):
        raise Unreadable("no column 'at', so nobody can tell how old its examples are")
    rows = _Rows(array("d"), array("q"), _used(db))
    for made, row in db.execute(f"SELECT {WHEN} AS made, rowid FROM {TABLE} ORDER BY made, rowid"):  # noqa: S608
        rows.times.append(made)
        rows.ids.append(row)
    return rows


def _used(db: sqlite3.Connection) -> int:
    def read(name: str) -> int:
        return int(db.execute(f"PRAGMA {name}").fetchone()[0])

    return (read("page_count") - read("freelist_count")) * read("page_size")


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
