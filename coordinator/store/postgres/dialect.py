"""The shared SQL as PostgreSQL wants it.

PostgreSQL settles the type of `$1` when it parses: `seen < $1 - 60` makes it an integer, a bare
`$1 IS NULL` nothing at all. SQLite goes by the value. So each value's own type is written beside
its placeholder, and a `None` becomes a plain NULL, which fits wherever SQLite takes one.
"""

import re
from functools import lru_cache
from typing import Any

from coordinator.store.sql import Query, Value

_CASTS: dict[type, str] = {
    str: "text",
    int: "bigint",
    float: "double precision",
    bytes: "bytea",
}
_WORDS = {
    "INTEGER": "BIGINT",
    "REAL": "DOUBLE PRECISION",
    "BLOB": "BYTEA",
    " STRICT": "",
    ", WITHOUT ROWID": "",
}

_PLACEHOLDER = re.compile(
    r"""'[^']*' | "[^"]*" | --[^\n]* | \$(?P<number>\d+)""",  # a quoted `$1` is none
    re.VERBOSE,
)
_COMMENT = re.compile(r"--[^\n]*")
_WORD = re.compile(r"\bINTEGER\b|\bREAL\b|\bBLOB\b| STRICT\b|, WITHOUT ROWID\b")


def statement(query: Query) -> tuple[str, list[Value]]:
    """The text and the values of a query as asyncpg takes them."""
    text = _typed(query.text, tuple(map(type, query.values)))
    return text, [value for value in query.values if value is not None]


@lru_cache(maxsize=2048)
def _typed(text: str, kinds: tuple[type, ...]) -> str:
    numbers: dict[int, int] = {}  # PostgreSQL wants no gap where a NULL was
    for number, kind in enumerate(kinds, start=1):
        if kind is not type(None):
            numbers[number] = len(numbers) + 1

    def marked(found: re.Match[str]) -> str:
        if found["number"] is None:
            return found[0]
        number = int(found["number"])
        if number not in numbers:
            return "NULL" if number <= len(kinds) else found[0]
        return f"${numbers[number]}::{_cast(kinds[number - 1])}"

    return _PLACEHOLDER.sub(marked, text)


def _cast(kind: type) -> str:
    for python, sql in _CASTS.items():
        if issubclass(kind, python):
            return sql
    raise TypeError(f"a {kind.__name__} is no value of a store")


def schema(text: str) -> str:
    """`schema.sql` for PostgreSQL."""
    return _WORD.sub(lambda found: _WORDS[found[0]], _COMMENT.sub("", text))


async def set_codecs(connection: Any) -> None:
    """Numbers as SQLite gives them: the sum of integers is an integer, a mean is a float."""
    await connection.set_type_codec(
        "numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text"
    )


def _number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)
