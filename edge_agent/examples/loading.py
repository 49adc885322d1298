"""A folder's examples in memory, checked against the plan, part of them held out.

Runs in the training child only. A file or row that does not fit is counted and skipped, with the
first reasons kept; nothing usable at all is a reason, not a crash.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from msgspec import UNSET

from edge_agent.examples.formats import UNREADABLE, files, store_of
from edge_agent.examples.holdout import held_out
from edge_agent.examples.store import Block, Columns, Skip
from wire.plan import Input
from wire.tensors import Array

_REASONS_KEPT = 5
_EXACT = 2.0**53


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
        held = held_out(self.arrays, hold_out)
        return self.where(~held), self.where(held)


def load(folder: Path, inputs: tuple[Input, ...], columns: Columns) -> Examples:
    """Every example of a folder that fits `inputs`, in order of file name."""
    found = Examples({i.name: np.empty((0, *i.shape), i.dtype) for i in inputs})
    try:
        paths = files(folder)
    except OSError as error:
        found.skip(0, error.strerror or str(error))
        return found
    parts = [part for path in paths for part in usable(path, inputs, columns, found.skip)]
    if parts:
        # Input by input, so that not all of it is there twice.
        found.arrays = {i.name: _joined([part.pop(i.name) for part in parts]) for i in inputs}
    return found


def usable(
    path: Path, inputs: tuple[Input, ...], columns: Columns, skip: Skip
) -> Iterator[dict[str, Array]]:
    """The examples of one file that fit `inputs`, some at a time, as the inputs' types; what does
    not fit is told to `skip`. A file that breaks off in the middle gives what is before."""
    try:
        for block in store_of(path).blocks(path, inputs, columns, skip):
            yield _fitting(block, inputs, path.name, skip)
    except UNREADABLE as error:
        skip(0, f"{path.name}: {error}")


def _joined(parts: list[Array]) -> Array:
    """One array of all parts. They are given up from the last one on, which is the order in which
    memory goes back to the system, so that the data is not there twice."""
    if len(parts) == 1:
        return parts[0]
    whole = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), parts[0].dtype)
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole


def _fitting(block: Block, inputs: tuple[Input, ...], source: str, skip: Skip) -> dict[str, Array]:
    """As the inputs' types, without the examples that hold NaN, infinity, a number that the type
    cannot hold, or a label that is not a class."""
    good = np.ones(len(block.numbers), bool)
    cast: dict[str, Array] = {}
    for i in inputs:
        array = block.arrays[i.name]
        with np.errstate(invalid="ignore", over="ignore"):
            cast[i.name] = array.astype(i.dtype, copy=False)
        right, what = fits(array, cast[i.name], i)
        bad = np.flatnonzero(good & ~right.all(axis=tuple(range(1, array.ndim))))
        if bad.size:
            number = block.numbers[bad[0]]
            skip(int(bad.size), f"{source} example {number}: {i.name!r} is {what}")
        good[bad] = False
    return cast if good.all() else {name: array[good] for name, array in cast.items()}


def fits(array: Array, cast: Array, i: Input) -> tuple[Array, str]:
    """Which values of an `array` an input accepts, and what the others are; `cast` is the array as
    the input's type."""
    if i.range is not UNSET:
        least, most = i.range
        within = (cast >= least) & (cast <= most)
        if cast.dtype.kind == "f":
            return within, f"not a number from {least:g} to {most:g}"
        return _whole(array, cast) & within, f"not a whole number from {least:.0f} to {most:.0f}"
    if cast.dtype.kind == "f":
        return np.isfinite(cast), "NaN or infinite"
    whole = _whole(array, cast)
    if i.classes is None:
        return whole, f"not {i.dtype}"
    label, what = (cast >= 0) & (cast < i.classes), f"not a class from 0 to {i.classes - 1}"
    if i.ignored_label is not None:
        label, what = label | (cast == i.ignored_label), f"{what}, nor {i.ignored_label}"
    return whole & label, what


def _whole(array: Array, cast: Array) -> Array:
    """Which numbers are still what they were as the input's type."""
    whole: Array = cast == array
    if array.dtype.kind == "f" and cast.dtype.kind == "i":
        # Above this a float stands for several whole numbers, and nobody knows which was meant.
        whole &= np.abs(array) < _EXACT
    return whole
