"""How long and how many examples are kept: the decision what goes. Pure, and cheap to import."""

from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta


class Retention(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task's folder may hold: examples up to `age` seconds old, so many `examples`, so many
    `bytes` of files. `None`: no limit. What is oldest goes first."""

    age: Annotated[float, Meta(gt=0)] | None = None
    examples: Annotated[int, Meta(ge=1)] | None = None
    bytes: Annotated[int, Meta(ge=100_000)] | None = None


class Held(NamedTuple):
    """What a folder holds."""

    examples: int
    bytes: float

    def beyond(self, retention: Retention) -> bool:
        """Whether that is too much, whatever its age."""
        too_many = retention.examples is not None and self.examples > retention.examples
        return too_many or (retention.bytes is not None and self.bytes > retention.bytes)


class Piece(NamedTuple):
    """What goes as one: a file, or a row of an SQLite file (then `row` is its rowid).

    `made` is in Unix seconds: when the file was last written, or what the row says.
    """

    made: float
    source: str
    examples: int
    bytes: float
    row: int | None = None


class Trimmed(NamedTuple):
    """What went: examples, whole files, bytes of the disk; and what could not go, with reasons."""

    examples: int = 0
    files: int = 0
    bytes: int = 0
    problems: tuple[str, ...] = ()


def going(pieces: Iterable[Piece], held: Held, retention: Retention, now: float) -> Iterator[Piece]:
    """Which of the `pieces` of what is `held`, oldest first, go at `now` (Unix seconds).

    Too old: always. Too many, or too large: until the rest is within the limits; but a file that
    is all that is left stays, since to take it would leave nothing to learn from.
    """
    oldest_kept = None if retention.age is None else now - retention.age
    for piece in pieces:
        too_old = oldest_kept is not None and piece.made < oldest_kept
        rest = Held(held.examples - piece.examples, held.bytes - piece.bytes)
        all_that_is_left = piece.row is None and rest.bytes < 1
        if not too_old and (not held.beyond(retention) or all_that_is_left):
            return
        held = rest
        yield piece
