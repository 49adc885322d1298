"""Every update of a round on disk, read back by columns: robust strategies compare updates.

A temporary file without a name, so that nothing is left of it however the process ends. It is read
with plain reads, not mapped: a disk that fails is an `OSError`, and memory stays bounded.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from coordinator.aggregation.layout import Layout, Vector32
from coordinator.aggregation.recipe import Contribution, staleness_factor
from wire.files import naming

_ROOM = 32 << 20
"""Bytes of one block of columns and of what is computed from it."""
_PER_NUMBER = 16  # the float32 itself, a float64 or a sorted copy of it, and some more


class Rows:
    """One flat change a row, float32, by assignment in ascending order: however they arrived."""

    def __init__(self, layout: Layout, staleness_exponent: float, scratch: Path) -> None:
        self._layout = layout
        self._exponent = staleness_exponent
        self._scratch = scratch
        self._places: dict[str, int] = {}
        self._file = tempfile.TemporaryFile(dir=scratch, prefix="updates-", buffering=0)  # noqa: SIM115
        self.examples = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._places)

    def fill(self, updates: Iterable[tuple[str, Contribution]]) -> None:
        """Write each update's change, scaled down by its staleness. Raises `OSError` that
        names the folder."""
        for assignment, update in updates:
            if assignment in self._places:
                raise ValueError(f"two updates of the assignment {assignment}")
            scale = np.float32(staleness_factor(update.staleness, self._exponent))
            for piece in self._layout.pieces():
                values = piece.of(update.delta)
                with naming(self._scratch):
                    _write(self._file.fileno(), values if scale == 1 else values * scale)
            self._places[assignment] = len(self._places)
            self.examples += update.examples

    def columns(self, which: Sequence[int] | None = None) -> Iterator[tuple[slice, Vector32]]:
        """Blocks of columns, each of shape [rows, columns], and where they lie in a flat model.

        `which` are the rows wanted, counted in order of their assignments; all unless given. The
        array is used again for the next block. Raises `OSError`.
        """
        order = [self._places[assignment] for assignment in sorted(self._places)]
        rows = order if which is None else [order[index] for index in which]
        size = self._layout.size
        width = min(size, max(1, _ROOM // (_PER_NUMBER * len(rows))))
        room = np.empty((len(rows), width), np.float32)
        for start in range(0, size, width):
            block = slice(start, min(start + width, size))
            found = room[:, : block.stop - start]
            for index, row in enumerate(rows):
                _read(self._file.fileno(), found[index], 4 * (row * size + start))
            yield block, found


def _write(file: int, values: Vector32) -> None:
    rest = np.ascontiguousarray(values).data.cast("B")
    while rest:
        rest = rest[os.write(file, rest) :]


def _read(file: int, values: Vector32, offset: int) -> None:
    rest = values.data.cast("B")
    while rest:
        got = os.preadv(file, [rest], offset)
        if not got:
            raise OSError(f"the scratch file ends at byte {offset}")
        rest, offset = rest[got:], offset + got
