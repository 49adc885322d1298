"""Transactions as plain generators: what is asked of a database, apart from which one answers.

    def rename(device: str, name: str) -> Steps[bool]:
        text = "UPDATE devices SET name = $2 WHERE id = $1 RETURNING id"
        found = yield from rows(text, device, name)
        return bool(found)

    renamed = await store.run(rename, "device-1", "pump")

A step asks, the driver answers, the transaction decides and goes on: no socket, file or loop in
here, so each is written once for SQLite and PostgreSQL and is run by a test without either.

The SQL is what both understand: `$1` placeholders; `RETURNING` and `ON CONFLICT`; a lone
`FOR UPDATE`, which SQLite's driver leaves out, since its transactions come one after the other.
JSON is text, a time is seconds since the epoch on the store's own clock (`Store.now`).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar

import msgspec

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R", bound=msgspec.Struct)

Value = str | int | float | bytes | None


_AT_ONCE = 256  # rows of a table: both databases take some 32,000 values


class Row(Protocol):
    """A row that was found: by the name of a column."""

    def __getitem__(self, column: str, /) -> Any: ...

    def keys(self) -> Any: ...


class Query(NamedTuple):
    """SQL and the values of `$1`, `$2`, ... Answered by the rows found: `list[Row]`."""

    text: str
    values: tuple[Value, ...] = ()


class Keep(NamedTuple):
    """Keep an update's bytes, durable when the transaction is. Answered by `None`."""

    task: str
    round: int  # the round in which it counts
    assignment: str
    data: bytes


class Recall(NamedTuple):
    """The bytes of a kept update. Answered by `bytes`, or `None` when they are gone or damaged."""

    assignment: str


class Discard(NamedTuple):
    """A round's kept updates are needed no more, all of them, or that of one `assignment` alone
    (whose bytes are then overwritten, not only forgotten). Done once the transaction is durable.
    Answered by `None`."""

    task: str
    round: int
    assignment: str | None = None


class Tell(NamedTuple):
    """Once this is durable, every process over this store hears of it: see `Store.changed`."""

    topic: str


Step = Query | Keep | Recall | Discard | Tell
Steps = Generator[Step, Any, T]
"""A transaction that returns T. It may raise: then nothing of it has happened."""


def rows(text: str, *values: Value) -> Steps[list[Row]]:
    """The rows that a statement finds or returns."""
    found: list[Row] = yield Query(text, values)
    return found


def over(table: Sequence[tuple[Value, ...]], text: str, *values: Value) -> Steps[None]:
    """A statement over a table that is made for it, one for many rows: `{table}` in the text is
    that table, whose columns are named column1, column2 and so on; `$1`, ... are `values`."""
    for start in range(0, len(table), _AT_ONCE):
        part = table[start : start + _AT_ONCE]
        marks = _table(len(part), len(part[0]), len(values) + 1)
        cells = (cell for row in part for cell in row)
        yield from rows(text.replace("{table}", marks), *values, *cells)


@lru_cache(maxsize=1024)
def _table(height: int, width: int, first: int) -> str:
    ends = range(first + width, first + width * (height + 1), width)
    lines = (", ".join(f"${number}" for number in range(end - width, end)) for end in ends)
    return f"(VALUES ({'), ('.join(lines)}))"


def one(text: str, *values: Value) -> Steps[Row | None]:
    """The first row, if any."""
    found = yield from rows(text, *values)
    return found[0] if found else None


def recall(assignment: str) -> Steps[bytes | None]:
    """The bytes of a kept update; `None` when they are gone or damaged."""
    data: bytes | None = yield Recall(assignment)
    return data


def records(kind: type[R], text: str, *values: Value) -> Steps[list[R]]:
    """The rows as records of `kind`, whose fields are the columns' names."""
    found = yield from rows(text, *values)
    return [record(kind, row) for row in found]


def record(kind: type[R], row: Row) -> R:
    """A row as a record. A column that is no plain value holds JSON. Raises `DamagedRow`."""
    try:
        values = {
            name: row[name] if plain else msgspec.json.decode(row[name])
            for name, plain in _columns(kind)
        }
        return msgspec.convert(values, kind)
    except msgspec.MsgspecError as error:
        first = kind.__struct_fields__[0]
        raise DamagedRow(f"{kind.__name__} {row[first]}: {error}") from None


@cache
def _columns(kind: type[msgspec.Struct]) -> tuple[tuple[str, bool], ...]:
    """The columns of a kind of record, and which are plain values: to find out takes long."""
    return tuple((f.name, f.type in _PLAIN) for f in msgspec.structs.fields(kind))


def insert(table: str, value: msgspec.Struct, conflict: str = "") -> Steps[list[Row]]:
    """Insert a record into a table (this package's own name for it, never one from outside)."""
    values = msgspec.to_builtins(value)
    marks = ", ".join(f"${number}" for number in range(1, len(values) + 1))
    text = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks}) {conflict}"
    return (yield from rows(text, *map(_plain, values.values())))


def _plain(value: Any) -> Value:
    if isinstance(value, Mapping | list):
        return msgspec.json.encode(value).decode()
    plain: Value = value
    return plain


_PLAIN = (str, int, float, str | None, int | None, float | None)


class StoreError(Exception):
    """The store cannot be used; one line that says what to do."""


class DamagedRow(StoreError):
    """A row holds what was never written there."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"a row of the database is damaged ({what}): restore it from a backup, or remove what "
            "it is of"
        )


class StoreUnavailable(Exception):
    """The store does not take this now (a full disk, a lost connection): nothing of it happened,
    or it is not known whether it did. Try later."""


class Store(Protocol):
    """A database that runs transactions. Several processes may be over the same one."""

    @property
    def shared(self) -> bool:
        """Whether other processes may be over it, too."""

    def now(self) -> float:
        """Seconds since the epoch on the clock that all its processes share. Goes forward only,
        whatever happens to the wall clock."""

    async def run(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a transaction; durable on return. Several that wait are made durable together.

        Cancelling the wait does not undo one that has begun. Raises what the transaction raises,
        or `StoreUnavailable`.
        """

    async def read(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run one that only looks (Query without a change, Recall). Sees what is durable, and waits
        for no other."""

    async def survey(
        self, transaction: Callable[P, Steps[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `read`, for what looks at a fleet's rows and takes its time: who reads does not wait
        for it."""

    async def changed(self, timeout: float) -> None:  # noqa: ASYNC109
        """Returns when some process (this one, too) has told of something since the last call, or
        after `timeout` seconds. For one waiter."""

    async def check(self) -> None:
        """Raises `StoreUnavailable`, which says why, unless it takes what is written now."""

    async def close(self) -> None:
        """Finish what was begun and let go."""
