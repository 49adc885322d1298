"""The device's examples: `.npz` and `.csv` files, checked against the plan, part of them held out.

Runs in the training child only. A file or row that does not fit is counted and skipped, with the
first reasons kept; nothing usable at all is a reason, not a crash.
"""

import csv
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from wire.plan import Input
from wire.tensors import Array

_REASONS_KEPT = 5
Columns = Mapping[str, tuple[str, ...]]


@dataclass
class Examples:
    """Arrays by input name, all of one length; and what was left out."""

    arrays: dict[str, Array]
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def skip(self, count: int, reason: str) -> None:
        """Leave out `count` examples."""
        self.skipped += count
        if len(self.reasons) < _REASONS_KEPT:
            self.reasons.append(reason)

    def where(self, chosen: Array) -> "Examples":
        """The examples that a boolean mask or an index chooses."""
        return Examples({name: array[chosen] for name, array in self.arrays.items()})

    def split(self, hold_out: float) -> tuple["Examples", "Examples"]:
        """(training, held out). An example's own bytes decide, so it never changes sides."""
        held = np.fromiter(
            (_fraction(row) < hold_out for row in self._rows()), bool, count=len(self)
        )
        return self.where(~held), self.where(held)

    def _rows(self) -> Iterator[bytes]:
        arrays = list(self.arrays.values())
        for index in range(len(self)):
            yield b"".join(array[index].tobytes() for array in arrays)


def load(folder: Path, inputs: tuple[Input, ...], columns: Columns) -> Examples:
    """Every example of a folder that fits `inputs`, in order of file name."""
    found = Examples({i.name: np.empty((0, *i.shape), i.dtype) for i in inputs})
    parts: list[dict[str, Array]] = []
    for path in sorted(folder.glob("*")):
        if path.suffix not in (".npz", ".csv"):
            continue
        try:
            arrays = (
                _npz(path, inputs) if path.suffix == ".npz" else _csv(path, inputs, columns, found)
            )
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            found.skip(0, f"{path.name}: {error}")
            continue
        parts.append(_usable(arrays, inputs, path.name, found))
    if parts:
        found.arrays = {i.name: np.concatenate([part[i.name] for part in parts]) for i in inputs}
    return found


def _npz(path: Path, inputs: tuple[Input, ...]) -> dict[str, Array]:
    """Arrays named as the inputs, the first axis counting examples. Raises `ValueError`."""
    arrays: dict[str, Array] = {}
    with np.load(path, allow_pickle=False) as archive:
        for i in inputs:
            if i.name not in archive.files:
                raise ValueError(f"no array {i.name!r}; it has {', '.join(archive.files)}")
            array = archive[i.name]
            if array.shape[1:] != i.shape or array.ndim == 0:
                raise ValueError(f"{i.name!r} has shape {array.shape}, expected (n, *{i.shape})")
            if not np.can_cast(array.dtype, i.dtype, "same_kind"):
                raise ValueError(f"{i.name!r} is {array.dtype}, expected {i.dtype}")
            arrays[i.name] = array.astype(i.dtype, copy=False)
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError("its arrays have different lengths")
    return arrays


def _csv(
    path: Path, inputs: tuple[Input, ...], columns: Columns, found: Examples
) -> dict[str, Array]:
    """Rows under a header of column names. Raises `ValueError` when a column is missing."""
    rows: dict[str, list[list[float]]] = {i.name: [] for i in inputs}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        places = {i.name: [_place(header, c) for c in _columns(i, columns)] for i in inputs}
        for line in reader:
            try:
                values = {n: [float(line[at]) for at in where] for n, where in places.items()}
            except (ValueError, IndexError):
                found.skip(1, f"{path.name} line {reader.line_num}: not a number in each column")
                continue
            for name, row in values.items():
                rows[name].append(row)
    return {i.name: _array(rows[i.name], i) for i in inputs}


def _columns(i: Input, columns: Columns) -> tuple[str, ...]:
    size = math.prod(i.shape)
    default = (i.name,) if size == 1 else tuple(f"{i.name}.{k}" for k in range(size))
    named = columns.get(i.name, default)
    if len(named) != size:
        raise ValueError(f"{len(named)} columns are named for {i.name!r}, it has {size} values")
    return named


def _place(header: list[str], column: str) -> int:
    if column not in header:
        raise ValueError(f"no column {column!r}; it has {', '.join(header[:20])}")
    return header.index(column)


def _array(rows: list[list[float]], i: Input) -> Array:
    values = np.asarray(rows, np.float64).reshape((len(rows), *i.shape))
    if np.dtype(i.dtype).kind in "iub":
        # A fraction or NaN in a label's column is not a label: made -1, refused as out of range.
        values = np.where(np.isfinite(values) & (values == np.round(values)), values, -1.0)
    with np.errstate(invalid="ignore"):
        return values.astype(i.dtype)


def _usable(
    arrays: dict[str, Array], inputs: tuple[Input, ...], source: str, found: Examples
) -> dict[str, Array]:
    """Without the examples that hold NaN, infinity, or a label that is not a class."""
    good = np.ones(len(next(iter(arrays.values()))), bool)
    for i in inputs:
        array = arrays[i.name]
        axes = tuple(range(1, array.ndim))
        if array.dtype.kind == "f":
            fits = np.isfinite(array).all(axis=axes)
            what = "NaN or infinite"
        elif i.classes is not None:
            fits = ((array >= 0) & (array < i.classes)).all(axis=axes)
            what = f"not a class from 0 to {i.classes - 1}"
        else:
            continue
        if bad := int((good & ~fits).sum()):
            first = int(np.flatnonzero(good & ~fits)[0])
            found.skip(bad, f"{source} example {first}: {i.name!r} is {what}")
        good &= fits
    return {name: array[good] for name, array in arrays.items()}


def _fraction(row: bytes) -> float:
    """A number from 0 to 1 that depends on the bytes alone."""
    return int.from_bytes(blake2b(row, digest_size=8).digest(), "big") / 2.0**64
