"""`.npz`: arrays named as the inputs, the first axis counting examples."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

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
    with zipfile.ZipFile(path):
        pass  # np.load takes other formats, too
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


def count(path: Path) -> Count:
    """By the header of its first array."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not names:
            raise Unreadable("it holds no array")
        with archive.open(names[0]) as file:
            read = _HEADERS.get(np.lib.format.read_magic(file))
            if read is None:
                raise Unreadable("a NumPy format that is not known")
            shape, _, _ = read(file)
    return Count(shape[0] if shape else 0)
