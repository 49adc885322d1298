"""`.sqlite`, `.db`: an SQLite file that local programs, in any language, append to at any time.

The examples are the rows of one table, `examples`:

* `at`: when the example was made, Unix seconds. Retention goes by it.
* an input of one value: a number in the column `NAME`.
* an input of several values: numbers in the columns `NAME.0`, `NAME.1`, ... in C order; or all of
  them in one BLOB, `NAME`: little-endian values of the input's type, C order, nothing else (a
  bool is a byte, 0 or 1).
* other columns are left alone; `[data.columns]` may give the columns other names.

`edge-agent examples --create FILE` makes one for a task. Made by hand, for an input `x` of two
float32 values and a label:

    PRAGMA journal_mode = WAL;
    CREATE TABLE examples (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)),
        "x.0" REAL NOT NULL,
        "x.1" REAL NOT NULL,
        "label" INTEGER NOT NULL
    );

A program then says, as often as it likes, `INSERT INTO examples ("x.0", "x.1", "label") VALUES
(0.5, 1.0, 2)`. It should set a busy timeout of some seconds (`.timeout 5000` in the shell).

Reading leaves nothing in the folder, and in WAL mode never makes a program wait.
"""

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from msgspec import UNSET

from edge_agent.examples.store import (
    Block,
    Columns,
    Count,
    Place,
    Skip,
    Unreadable,
    default_columns,
    places,
    rows_at_once,
)
from wire.plan import Input
from wire.tensors import Array

T = TypeVar("T")

TABLE = "examples"
WHEN = "CASE WHEN typeof(at) IN ('integer', 'real') THEN at ELSE 0 END"
"""SQL for an example's time. One that has none counts as older than all others."""
BUSY_SECONDS = 5.0
"""How long a lock of another program is waited for."""
QUERY_SECONDS = 60.0
"""How long a file is worked on at once: a hostile one may hold a query that has no end."""
_LARGEST_CELL = 1 << 20  # bytes of a value that are taken into memory, where inputs need no more
_SEPARATE_COLUMNS = 16  # values of an input that `create_store` gives a column each, at most
_WAL_FORMAT = b"\2\2"


def blocks(path: Path, inputs: tuple[Input, ...], columns: Columns, skip: Skip) -> Iterator[Block]:
    """The rows that were there at the start, a block at a time, each with its `rowid`."""
    found = consistently(path, lambda db: places(inputs, columns, columns_of(db), whole=True))
    last, end = consistently(path, _rowids)
    wanted = ", ".join(["rowid", *(_cell(place, c) for place in found for c in place.columns)])
    # Names are quoted; they are the plan's or the owner's.
    query = f"SELECT {wanted} FROM {TABLE} WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"  # noqa: S608
    largest = max([_LARGEST_CELL, *(2 * _blob_bytes(p) for p in found if p.whole)])
    while last < end:
        bounds = (last, end, rows_at_once(inputs))
        rows = consistently(path, partial(_fetched, query=query, bounds=bounds, largest=largest))
        if not rows:
            return
        last = rows[-1][0]
        yield _block(path.name, rows, found, skip)


def count(path: Path) -> Count:
    """How many rows, and the times of the oldest and the newest."""
    return consistently(path, _counted)


def _counted(db: sqlite3.Connection) -> Count:
    times = f"min({WHEN}), max({WHEN})" if "at" in columns_of(db) else "NULL, NULL"
    return Count(*db.execute(f"SELECT count(*), {times} FROM {TABLE}").fetchone())  # noqa: S608


@contextmanager
def connected(
    path: Path, mode: str, seconds: float = QUERY_SECONDS
) -> Iterator[sqlite3.Connection]:
    """An open file, `mode` as in SQLite's URIs; nothing in it is trusted, no wait is without an
    end. Raises `Unreadable` for all of SQLite's errors, also for those of the caller."""
    try:
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?{mode}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
        )
        try:
            end = time.monotonic() + seconds
            db.set_progress_handler(lambda: time.monotonic() > end, 100_000)
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            db.execute("PRAGMA mmap_size = 0")
            yield db
        finally:
            db.close()
    # An int too large for SQLite is an OverflowError.
    except (sqlite3.Error, sqlite3.Warning, OverflowError) as error:
        raise Unreadable(str(error)) from None


def consistently(path: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """Do some reading in one transaction.

    A file in WAL mode that no program has open is read as it lies there. To open it as usual would
    create `-wal` and `-shm` files of ours, which lock a program of another user out, and fail in a
    folder that we may not write. A program that came meanwhile is seen by what it left: then the
    work is done again, the usual way.
    """
    lies = _lies_still(path)
    if lies is not None:
        try:
            with connected(path, "mode=ro&immutable=1") as db:
                done = work(db)
        except Unreadable:
            if _lies_still(path) == lies:
                raise
        else:
            if _lies_still(path) == lies:
                return done
    with connected(path, "mode=ro") as db:
        return work(db)


def _lies_still(path: Path) -> tuple[int, int, int] | None:
    """What changes when the file does; `None` unless it is in WAL mode and nobody has it open."""
    with path.open("rb") as file:
        head = file.read(20)
    if head[18:20] != _WAL_FORMAT or path.with_name(path.name + "-wal").exists():
        return None
    now = path.stat()
    return now.st_mtime_ns, now.st_size, now.st_ino


def columns_of(db: sqlite3.Connection) -> list[str]:
    """The table's columns. Raises `Unreadable` unless it is a table of rows on the disk: a view
    could hide a query without an end."""
    query = "SELECT type = 'table' AND rootpage > 0 FROM sqlite_master WHERE lower(name) = ?"
    if (1,) not in db.execute(query, (TABLE,)).fetchall():
        raise Unreadable(f"no table {TABLE!r}")
    return [row[1] for row in db.execute(f"PRAGMA table_xinfo({TABLE})")]


def _rowids(db: sqlite3.Connection) -> tuple[int, int]:
    """One before the first, and the last."""
    first, last = db.execute(f"SELECT min(rowid), max(rowid) FROM {TABLE}").fetchone()  # noqa: S608
    if first is None:
        return 0, 0
    if not isinstance(first, int) or not isinstance(last, int):
        raise Unreadable("its column 'rowid' is not SQLite's own")
    return first - 1, last


def _cell(place: Place, column: str) -> str:
    """SQL for a cell that fits, or a few words on one that does not: large ones stay outside."""
    name = quoted(column)
    if place.whole:
        return (
            f"CASE WHEN typeof({name}) = 'blob' AND length({name}) = {_blob_bytes(place)} "
            f"THEN {name} WHEN typeof({name}) = 'blob' THEN length({name}) || ' bytes' "
            f"ELSE typeof({name}) END"
        )
    return f"CASE WHEN typeof({name}) IN ('integer', 'real') THEN {name} ELSE typeof({name}) END"


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _blob_bytes(place: Place) -> int:
    return place.size * np.dtype(place.input.dtype).itemsize


def _fetched(
    db: sqlite3.Connection, query: str, bounds: tuple[int, int, int], largest: int
) -> list[tuple[Any, ...]]:
    db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, largest)
    return db.execute(query, bounds).fetchall()


def _block(source: str, rows: list[tuple[Any, ...]], found: list[Place], skip: Skip) -> Block:
    """Rows as arrays, without those whose cells do not fit."""
    columns = [(c, p) for p in found for c in p.columns]
    good: list[tuple[Any, ...]] = []
    for row in rows:
        # What does not fit is told in words, see `_cell`.
        if str in map(type, row):
            at = next(k for k, cell in enumerate(row) if type(cell) is str)
            column, place = columns[at - 1]
            wanted = f"{_blob_bytes(place)} bytes" if place.whole else "a number"
            what = f"{column!r} is {row[at].replace('null', 'NULL')}, expected {wanted}"
            skip(1, f"{source} example {row[0]}: {what}")
        else:
            good.append(row)
    arrays: dict[str, Array] = {}
    start = 1
    for place in found:
        end = start + len(place.columns)
        arrays[place.input.name] = _array([row[start:end] for row in good], place)
        start = end
    return Block(arrays, [row[0] for row in good])


def _array(cells: list[tuple[Any, ...]], place: Place) -> Array:
    """One input of some rows."""
    shape = (len(cells), *place.input.shape)
    if not place.whole:
        return np.array(cells, np.float64).reshape(shape)
    kind = np.dtype("uint8" if place.input.dtype == "bool" else place.input.dtype)
    data = b"".join(row[0] for row in cells)
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(shape)


def schema(inputs: tuple[Input, ...], columns: Columns) -> str:
    """The `CREATE TABLE` for a plan's inputs: few values in columns of their own, many in a BLOB.
    Raises `ValueError` when two columns would have one name."""
    lines = [
        "id INTEGER PRIMARY KEY AUTOINCREMENT",
        "at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER))",
    ]
    taken = {"id", "at"}
    for i in inputs:
        whole = math.prod(i.shape) > _SEPARATE_COLUMNS
        names = columns.get(i.name) or tuple(default_columns(i, whole))
        whole = whole and len(names) == 1
        for name in names:
            if name.lower() in taken:
                raise ValueError(
                    f"two columns would be named {name!r}: name those of {i.name!r} in data.columns"
                )
            taken.add(name.lower())
            lines.append(f"{quoted(name)} {_declared(Place(i, names, whole), name)}")
    return f"CREATE TABLE {TABLE} (\n    " + ",\n    ".join(lines) + "\n)"


def _declared(place: Place, name: str) -> str:
    """The type of a column; what SQLite can check, it checks, so that a program hears of it."""
    if place.whole:
        return f"BLOB NOT NULL CHECK (length({quoted(name)}) = {_blob_bytes(place)})"
    if place.input.range is not UNSET:
        least, most = place.input.range
        if place.input.dtype.startswith("float"):
            return f"REAL NOT NULL CHECK ({quoted(name)} BETWEEN {least!r} AND {most!r})"
        return f"INTEGER NOT NULL CHECK ({quoted(name)} BETWEEN {least:.0f} AND {most:.0f})"
    if place.input.dtype.startswith("float"):
        return "REAL NOT NULL"
    if place.input.classes is None:
        return "INTEGER NOT NULL"
    allowed = f"{quoted(name)} BETWEEN 0 AND {place.input.classes - 1}"
    if place.input.ignored_label is not None:
        allowed += f" OR {quoted(name)} = {place.input.ignored_label}"
    return f"INTEGER NOT NULL CHECK ({allowed})"


def create_store(path: Path, inputs: tuple[Input, ...], columns: Columns) -> str:
    """Make an empty file for a plan's inputs, for local programs to append to; gives its schema.

    Its permissions are those that the process's umask leaves. Raises `ValueError` for a name that
    would not be read or a column named twice, `OSError` when the file exists or cannot be made.
    """
    if path.suffix not in (".db", ".sqlite"):
        raise ValueError(f"{path.name}: expected a name that ends in .db or .sqlite")
    text = schema(inputs, columns)
    with path.open("xb"):
        pass
    try:
        with connected(path, "mode=rw") as db:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(text)
    except Unreadable as error:
        path.unlink()
        raise OSError(f"{path}: {error}") from None
    return text
