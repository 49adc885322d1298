"""`.parquet`: columns named as in CSV, or a column of lists for an input of many values.

Needs the extra `parquet` (pyarrow). Without it such a file is left out with a reason. A row group
is in memory as a whole while it is read: write small ones for small devices.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.examples.store import (
    Block,
    Columns,
    Count,
    Place,
    Skip,
    Unreadable,
    places,
    rows_at_once,
)
from wire.plan import Input
from wire.tensors import Array


def blocks(path: Path, inputs: tuple[Input, ...], columns: Columns, skip: Skip) -> Iterator[Block]:
    """Rows, a block at a time; one with a null, or a list of a wrong length, is skipped."""
    start = 0
    with _opened(path) as file:
        found = places(inputs, columns, file.schema_arrow.names, whole=True)
        wanted = list(dict.fromkeys(column for place in found for column in place.columns))
        for batch in file.iter_batches(rows_at_once(inputs), columns=wanted, use_threads=False):
            numbers = np.arange(start, start + len(batch))
            start += len(batch)
            full = np.ones(len(batch), bool)
            for place in found:
                for column in place.columns:
                    fits = _filled(batch.column(column), place)
                    bad = np.flatnonzero(full & ~fits)
                    if bad.size:
                        what = f"no list of {place.size} values" if place.whole else "null"
                        skip(
                            int(bad.size),
                            f"{path.name} example {numbers[bad[0]]}: {column!r} is {what}",
                        )
                    full &= fits
            chosen = batch.filter(_pyarrow().array(full))
            arrays = {place.input.name: _values(chosen, place) for place in found}
            yield Block(arrays, numbers[full].tolist())


def count(path: Path) -> Count:
    """By its footer."""
    with _opened(path) as file:
        return Count(file.metadata.num_rows)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    pa = _pyarrow()
    try:
        parquet = import_module("pyarrow.parquet")
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except pa.ArrowException as error:
        raise Unreadable(str(error)) from None


def _pyarrow() -> Any:
    try:
        return import_module("pyarrow")
    except ImportError:
        raise Unreadable("needs pyarrow: pip install 'lamplighter[parquet]'") from None


def _filled(column: Any, place: Place) -> Array:
    """Which rows hold all values of their input. Raises `Unreadable` for columns of other types."""
    pa = _pyarrow()
    types = pa.types
    if place.whole:
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        if not any(is_one(column.type) for is_one in lists):
            raise Unreadable(f"{place.columns[0]!r} is {column.type}, expected lists")
        _check(column.type.value_type, place.columns[0])
        compute = import_module("pyarrow.compute")
        right = compute.equal(compute.list_value_length(column), place.size)
        return np.asarray(compute.fill_null(right, False).to_numpy(zero_copy_only=False), bool)
    _check(column.type, place.columns[0])
    return np.asarray(column.is_valid().to_numpy(zero_copy_only=False), bool)


def _check(kind: Any, column: str) -> None:
    types = _pyarrow().types
    if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
        raise Unreadable(f"{column!r} is {kind}, expected numbers")


def _values(batch: Any, place: Place) -> Array:
    """An input's values; a null inside a list becomes NaN, which no input accepts."""
    shape = (len(batch), *place.input.shape)
    if place.whole:
        return _numbers(batch.column(place.columns[0]).flatten()).reshape(shape)
    parts = [_numbers(batch.column(c)) for c in place.columns]
    return (np.stack(parts, axis=1) if parts else np.empty((len(batch), 0))).reshape(shape)


def _numbers(column: Any) -> Array:
    pa = _pyarrow()
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return np.asarray(column.to_numpy(zero_copy_only=False))
