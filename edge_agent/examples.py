"""The device's examples: `.npz` and `.csv` files, checked against the plan, part of them held out.

Runs in the training child only. A file or row that does not fit is counted and skipped, with the
first reasons kept; nothing usable at all is a reason, not a crash.
"""

import csv
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from wire.plan import Input
from wire.tensors import Array

_REASONS_KEPT = 5
# What numpy, zipfile and csv raise for files that are damaged, or are something else.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, RuntimeError),
    *(SyntaxError, csv.Error, zipfile.BadZipFile, zlib.error, struct.error),
)
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
    try:
        paths = sorted(p for p in folder.iterdir() if p.suffix in (".npz", ".csv"))
    except OSError as error:
        found.skip(0, error.strerror or str(error))
        return found
    for path in paths:
        try:
            if path.suffix == ".npz":
                arrays = _npz(path, inputs)
            else:
                arrays = _csv(path, inputs, columns, found)
        except _UNREADABLE as error:
            found.skip(0, f"{path.name}: {error}")
            continue
        parts.append(_usable(arrays, inputs, path.name, found))
    if parts:
        found.arrays = {i.name: np.concatenate([part[i.name] for part in parts]) for i in inputs}
    return found


def _npz(path: Path, inputs: tuple[Input, ...]) -> dict[str, Array]:
    """Arrays named as the inputs, the first axis counting examples, of a kind that the inputs'
    types can hold. Raises one of `_UNREADABLE`."""
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path):
        pass  # np.load takes other formats, too
    with np.load(path, allow_pickle=False) as archive:
        for i in inputs:
            if i.name not in archive.files:
                raise ValueError(f"no array {i.name!r}; it has {', '.join(archive.files)}")
            array = np.asarray(archive[i.name])
            if array.shape[1:] != i.shape or array.ndim == 0:
                raise ValueError(f"{i.name!r} has shape {array.shape}, expected (n, *{i.shape})")
            if not np.can_cast(array.dtype, i.dtype, "same_kind"):
                raise ValueError(f"{i.name!r} is {array.dtype}, expected {i.dtype}")
            arrays[i.name] = array
    if len({len(array) for array in arrays.values()}) > 1:
        raise ValueError("its arrays have different lengths")
    return arrays


def _csv(
    path: Path, inputs: tuple[Input, ...], columns: Columns, found: Examples
) -> dict[str, Array]:
    """Rows under a header of column names, as float64. Raises one of `_UNREADABLE`."""
    rows: dict[str, list[list[float]]] = {i.name: [] for i in inputs}
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        header = [name.strip() for name in next(reader, [])]
        places = {i.name: [_place(header, c) for c in _columns(i, columns)] for i in inputs}
        for line in reader:
            if not line:
                continue
            try:
                values = {n: [float(line[at]) for at in where] for n, where in places.items()}
            except (ValueError, IndexError):
                found.skip(1, f"{path.name} line {reader.line_num}: not a number in each column")
                continue
            for name, row in values.items():
                rows[name].append(row)
    return {
        i.name: np.asarray(rows[i.name], np.float64).reshape((len(rows[i.name]), *i.shape))
        for i in inputs
    }


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


def _usable(
    arrays: dict[str, Array], inputs: tuple[Input, ...], source: str, found: Examples
) -> dict[str, Array]:
    """As the inputs' types, without the examples that hold NaN, infinity, a number that the type
    cannot hold, or a label that is not a class."""
    good = np.ones(len(next(iter(arrays.values()))), bool)
    cast: dict[str, Array] = {}
    for i in inputs:
        array = arrays[i.name]
        with np.errstate(invalid="ignore", over="ignore"):
            cast[i.name] = array.astype(i.dtype, copy=False)
        if cast[i.name].dtype.kind == "f":
            fits, what = np.isfinite(cast[i.name]), "NaN or infinite"
        elif i.classes is not None:
            whole = cast[i.name] == array
            fits = whole & (cast[i.name] >= 0) & (cast[i.name] < i.classes)
            what = f"not a class from 0 to {i.classes - 1}"
        else:
            fits, what = cast[i.name] == array, f"not {i.dtype}"
        bad = np.flatnonzero(good & ~fits.all(axis=tuple(range(1, array.ndim))))
        if bad.size:
            found.skip(bad.size, f"{source} example {bad[0]}: {i.name!r} is {what}")
        good[bad] = False
    return {name: array[good] for name, array in cast.items()}


def _fraction(row: bytes) -> float:
    """A number from 0 to 1 that depends on the bytes alone."""
    return int.from_bytes(blake2b(row, digest_size=8).digest(), "big") / 2.0**64
