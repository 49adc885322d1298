"""NASA's C-MAPSS files: turbofans that run until they fail, one row a flight cycle.

Text, columns separated by spaces: unit, cycle, 3 settings, 21 sensors. Four files are read, train
and test of FD001 and FD003, as they are or as `.gz`.
"""

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

NAMES = ("train_FD001.txt", "test_FD001.txt", "train_FD003.txt", "test_FD003.txt")
SOURCE = (
    "NASA's Prognostics Data Repository, data set 6, Turbofan Engine Degradation Simulation "
    "(https://www.nasa.gov/intelligent-systems-division/discovery-and-systems-health/pcoe/"
    "pcoe-data-set-repository/)"
)
"""Where the files come from, for people."""

FEATURES = {
    "setting 1": 2,
    "setting 2": 3,
    "T24": 6,
    "T30": 7,
    "T50": 8,
    "P30": 11,
    "Nf": 12,
    "Nc": 13,
    "Ps30": 15,
    "phi": 16,
    "NRf": 17,
    "NRc": 18,
    "BPR": 19,
    "htBleed": 21,
    "W31": 24,
    "W32": 25,
}
"""What a model sees of a row, and the columns that it is in. The other sensors hardly vary."""

_COLUMNS = 26
_LONGEST = 4096  # bytes of a line, so that a file that is none at all is no trouble

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]


class DataError(Exception):
    """A file is missing or damaged, or there are too few engines: one line that says which and
    where, and what to do."""


@dataclass(frozen=True)
class Flights:
    """Every cycle of every engine: [n, 16] of `FEATURES`, and [n] each. Engines count from 0 over
    all files; `left` are the cycles until the engine's last row, which is taken as its failure."""

    features: Numbers
    engine: Places
    cycle: Numbers
    left: Numbers

    @property
    def engines(self) -> int:
        """How many there are."""
        return int(self.engine[-1]) + 1

    @property
    def lives(self) -> Numbers:
        """The cycles that each engine ran: [engines]."""
        return np.bincount(self.engine).astype(np.float64)


def load(folder: Path) -> Flights:
    """All four files, in the order of `NAMES`. Raises `DataError`."""
    paths = [_path(folder, name) for name in NAMES]  # nothing is read if one is missing
    parts = [_table(path) for path in paths]
    table = np.concatenate(parts)
    first = table[:, 1] == 1
    engine = np.cumsum(first) - 1
    lives = np.bincount(engine)
    return Flights(
        features=table[:, list(FEATURES.values())],
        engine=engine,
        cycle=table[:, 1],
        left=lives[engine] - table[:, 1],
    )


def _path(folder: Path, name: str) -> Path:
    """A file of that name, as it is or compressed."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder / name} is not there, nor {name}.gz: get it from {SOURCE}")


def _table(path: Path) -> Numbers:
    """A file's rows: [n, 26]."""
    rows: list[list[float]] = []
    try:
        for number, line in enumerate(_lines(path), 1):
            if words := line.split():
                try:
                    rows.append(_row(words, rows[-1] if rows else None))
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: {error}") from None
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise DataError(f"{path} cannot be read: {error}") from None
    if not rows:
        raise DataError(f"{path} is empty: get it from {SOURCE}")
    return np.array(rows)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as raw, ExitStack() as stack:
        compressed = path.suffix == ".gz"
        file = stack.enter_context(gzip.open(raw)) if compressed else raw
        while line := file.readline(_LONGEST):
            yield line


def _row(words: list[bytes], before: list[float] | None) -> list[float]:
    """A row's numbers; `before` is the row before it. Raises `ValueError`: what is wrong with it.

    An engine's cycles count from 1 without a gap, so a row that was lost shows at the next one.
    """
    if len(words) != _COLUMNS:
        raise ValueError(f"{len(words)} columns, not {_COLUMNS}")
    row = _numbers(words)
    unit, cycle = row[:2]
    last_unit, last_cycle = before[:2] if before else (0.0, 0.0)
    if unit not in (last_unit, last_unit + 1):
        raise ValueError(f"unit {unit:g} after unit {last_unit:g}")
    if cycle != (last_cycle + 1 if unit == last_unit else 1):
        raise ValueError(f"unit {unit:g}: cycle {cycle:g} after cycle {last_cycle:g}")
    return row


def _numbers(words: list[bytes]) -> list[float]:
    """Raises `ValueError`, which names the first that is none."""
    try:
        row = list(map(float, words))
        if all(map(math.isfinite, row)):
            return row
    except ValueError:
        pass
    bad = next(word for word in words if not _finite(word))
    raise ValueError(f"{bad[:40].decode(errors='replace')!r} is not a number")


def _finite(word: bytes) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
