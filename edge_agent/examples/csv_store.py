"""`.csv`: rows of numbers under a header of column names, UTF-8."""

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from edge_agent.examples.store import Block, Columns, Count, Place, Skip, places, rows_at_once
from wire.plan import Input
from wire.tensors import Array

_PIECE = 1 << 20


def blocks(path: Path, inputs: tuple[Input, ...], columns: Columns, skip: Skip) -> Iterator[Block]:
    """Rows as float64, a block at a time; a row that is not numbers is skipped."""
    limit, start = rows_at_once(inputs), 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        found = places(inputs, columns, header, whole=False)
        index = {name: at for at, name in reversed(list(enumerate(header)))}
        cells = [index[column] for place in found for column in place.columns]
        values, rows = array("d"), 0
        for line in reader:
            if not line:
                continue
            try:
                values.extend([float(line[at]) for at in cells])
            except (ValueError, IndexError):
                skip(1, f"{path.name} line {reader.line_num}: not a number in each column")
                continue
            rows += 1
            if rows == limit:
                yield Block(_arrays(values, rows, found), range(start, start + rows))
                values, start, rows = array("d"), start + rows, 0
        yield Block(_arrays(values, rows, found), range(start, start + rows))


def _arrays(values: "array[float]", rows: int, found: list[Place]) -> dict[str, Array]:
    """The columns side by side, taken apart into inputs."""
    table = np.asarray(values, np.float64).reshape(rows, sum(place.size for place in found))
    ends = np.cumsum([place.size for place in found])
    parts = np.split(table, ends[:-1], axis=1)
    return {
        place.input.name: part.reshape(rows, *place.input.shape)
        for place, part in zip(found, parts, strict=True)
    }


def count(path: Path) -> Count:
    """By the ends of its lines."""
    lines, last = 0, b"\n"
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            lines, last = lines + piece.count(b"\n"), piece[-1:]
    lines += last != b"\n"
    return Count(max(0, lines - 1))
