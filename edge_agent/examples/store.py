"""What every format of examples has in common: its interface, and how columns make up inputs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from wire.plan import Input
from wire.tensors import Array

BLOCK_VALUES = 1 << 16
"""About as many numbers are read at once: what a file costs in memory beyond its arrays."""

Columns = Mapping[str, tuple[str, ...]]
"""Which columns make up an input, where the owner said so: input name to column names."""
Skip = Callable[[int, str], None]
"""Told of examples that are left out: how many, and why."""


class Unreadable(ValueError):
    """A file, or the rest of it, cannot be read; the message says why."""


class Block(NamedTuple):
    """Some examples of a file, in its order: arrays by input name, numbers of any type in them,
    the first axis counting examples; and the number that each example has in its file."""

    arrays: dict[str, Array]
    numbers: Sequence[int]


class Count(NamedTuple):
    """A look at a file. `oldest` and `newest` are Unix seconds, where its rows have times."""

    rows: int
    oldest: float | None = None
    newest: float | None = None


class Store(Protocol):
    """A format. What a damaged or foreign file makes it raise is in `formats.UNREADABLE`."""

    def blocks(
        self, path: Path, inputs: tuple[Input, ...], columns: Columns, skip: Skip
    ) -> Iterator[Block]:
        """The examples, as many at once as memory is modest for."""

    def count(self, path: Path) -> Count:
        """How many there are, without reading them."""


@dataclass(frozen=True)
class Place:
    """Where an input's values are: in one column each, or all in one column (`whole`)."""

    input: Input
    columns: tuple[str, ...]
    whole: bool

    @property
    def size(self) -> int:
        """Values in one example."""
        return math.prod(self.input.shape)


def places(
    inputs: tuple[Input, ...], columns: Columns, present: Sequence[str], whole: bool
) -> list[Place]:
    """Find every input among the columns `present`: those that the owner named, else `NAME`, or
    `NAME.0`, `NAME.1`, ... in C order. `whole`: one column can hold all values of an input, so
    `NAME` can always be it. Raises `Unreadable`."""
    known = frozenset(present)
    return [_place(i, columns.get(i.name), present, known, whole) for i in inputs]


def _place(
    i: Input,
    named: tuple[str, ...] | None,
    present: Sequence[str],
    known: frozenset[str],
    whole: bool,
) -> Place:
    size = math.prod(i.shape)
    one = size != 1 and whole and (len(named) == 1 if named else i.name in known)
    if named is not None and not one and len(named) != size:
        raise Unreadable(f"{len(named)} columns are named for {i.name!r}, it has {size} values")
    found: list[str] = []
    for column in named or default_columns(i, one):
        if column not in known:
            raise Unreadable(f"no column {column!r}; it has {', '.join(present[:20])}")
        found.append(column)
    return Place(i, tuple(found), one)


def default_columns(i: Input, whole: bool) -> Iterator[str]:
    """The names of an input's columns where the owner named none. Lazy: a plan may claim many."""
    size = math.prod(i.shape)
    if size == 1 or whole:
        yield i.name
    else:
        yield from (f"{i.name}.{k}" for k in range(size))


def rows_at_once(inputs: tuple[Input, ...]) -> int:
    """How many examples make a block."""
    return max(1, BLOCK_VALUES // max(1, sum(math.prod(i.shape) for i in inputs)))
