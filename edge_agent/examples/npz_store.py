"""`.npz`: arrays named as the inputs, the first axis counting examples."""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from edge_agent.examples.store import Block, Columns, Count, Skip, Unreadable
from wire.plan import Input
from wire.tensors import Array

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def blocks(path: Path, inputs: tuple[Input, ...], columns: Columns, skip: Skip) -> Iterator[Block]:
    """All of it at once, of kinds that the inputs' types can hold."""
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:  # np.load takes other formats, too
        for i in inputs:
            _check_size(archive, f"{i.name}.npy")
    with np.load(path, allow_pickle=False) as archive:
        for i in inputs:
            if i.name not in archive.files:
                raise Unreadable(f"no array {i.name!r}; it has {', '.join(archive.files)}")
            array = np.asarray(archive[i.name])
            if array.shape[1:] != i.shape or array.ndim == 0:
                raise Unreadable(f"{i.name!r} has shape {array.shape}, expected (n, *{i.shape})")
            if not np.can_cast(array.dtype, i.dtype, "same_kind"):
                raise Unreadable(f"{i.name!r} is {array.dtype}, expected {i.dtype}")
            arrays[i.name] = array
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) > 1:
        raise Unreadable("its arrays have different lengths")
    yield Block(arrays, range(lengths.pop()))


def _check_size(archive: zipfile.ZipFile, name: str) -> None:
    """NumPy takes memory for what a header claims: no more than is there. Raises `Unreadable`."""
    if name not in archive.namelist():
        return
    with archive.open(name) as file:
        shape, _, dtype = _header(file)
    there, claimed = archive.getinfo(name).file_size, math.prod(shape) * dtype.itemsize
    if claimed > there:
        raise Unreadable(f"{name!r} claims {claimed} bytes, it has {there}")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = _HEADERS.get(np.lib.format.read_magic(file))
    if read is None:
        raise Unreadable("a NumPy format that is not known")
    return read(file)


def count(path: Path) -> Count:
    """By the header of its first array."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not names:
            raise Unreadable("it holds no array")
        with archive.open(names[0]) as file:
            shape, _, _ = _header(file)
    return Count(shape[0] if shape else 0)
