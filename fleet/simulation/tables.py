"""Rows of results as a file, `.csv` or `.parquet`."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from wire.files import naming

Cell = float | int | str
Row = Mapping[str, Cell]


class TableError(ValueError):
    """No table can be written so; one line that says why, and what to do."""


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write `rows`; the suffix of `path` says how.

    The columns are the keys of all rows, in the order in which they first appear; a row without one
    leaves its cell empty. Numbers are written in full, so that they are read as they were.
    Raises `TableError`, `OSError` that names the file.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    if (writer := writers.get(path.suffix)) is None:
        raise TableError(f"{path}: expected a name that ends in .csv or .parquet")
    with naming(path):
        writer(path, columns, rows)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise TableError(
            f"{path.name} needs pyarrow: pip install 'lamplighter[simulation]'"
        ) from None
    table = {column: _column([row.get(column) for row in rows]) for column in columns}
    parquet.write_table(pyarrow.table(table), path)


def _column(cells: list[Cell | None]) -> list[Cell | None]:
    """Of one type, as Parquet wants it: a column with a float in it is one of floats."""
    if any(isinstance(cell, float) for cell in cells):
        return [float(cell) if isinstance(cell, int) else cell for cell in cells]
    return cells
