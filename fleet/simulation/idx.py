"""MNIST and what is published like it: four IDX files of pictures and their labels.

Format: https://yann.lecun.com/exdb/mnist. Files may be gzipped, as they are published, or not.
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from edge_agent.examples import Examples
from fleet.simulation.splits import Rows
from wire.plan import Input

SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/"
"""Where to get MNIST's."""

_FROM = f"MNIST's four files are at {SOURCE}"

_UNSIGNED_BYTES = 8  # what an IDX file says of its type
_PARTS = {"images-idx3": 3, "labels-idx1": 1}
_LARGEST = 1 << 31  # bytes, unpacked: some forty times MNIST's

Bytes = npt.NDArray[np.uint8]


class DataMissing(Exception):
    """The files are not there, or are not IDX; one line that says which, and what to do."""


@dataclass(frozen=True)
class Digits:
    """Pictures of shape [n, 28, 28], from 0 to 255, and labels [n]."""

    images: Bytes
    labels: Bytes

    def examples(self, chosen: Rows | slice, inputs: tuple[Input, ...]) -> Examples:
        """Those chosen, as a plan's inputs: pixels from 0 to 1, and labels."""
        found = {}
        for i in inputs:
            if i.classes is None:
                pixels = self.images[chosen].astype(i.dtype)
                found[i.name] = pixels.reshape(len(pixels), *i.shape) / np.asarray(255, i.dtype)
            else:
                found[i.name] = self.labels[chosen].astype(i.dtype)
        return Examples(found)


def check(folder: Path) -> None:
    """Raise `DataMissing` where one of the four files is not there, before any is read."""
    for name in ("train", "t10k"):
        for part in _PARTS:
            _find(folder, f"{name}-{part}-ubyte")


@lru_cache(maxsize=2)
def load(folder: Path) -> tuple[Digits, Digits]:
    """(training, test). The arrays are read-only. Raises `DataMissing`."""
    check(folder)
    return _digits(folder, "train"), _digits(folder, "t10k")


def _digits(folder: Path, name: str) -> Digits:
    images, labels = (
        _array(_find(folder, f"{name}-{part}-ubyte"), dimensions)
        for part, dimensions in _PARTS.items()
    )
    if len(images) != len(labels):
        raise DataMissing(f"{folder}: {len(images)} images and {len(labels)} labels of {name!r}")
    return Digits(images, labels)


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataMissing(f"no {folder / name}.gz; {_FROM}")


def _array(path: Path, dimensions: int) -> Bytes:
    """The array of an IDX file of bytes."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read(file, dimensions)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise DataMissing(f"{path} cannot be read: {error}; {_FROM}") from None


def _read(file: BinaryIO | gzip.GzipFile, dimensions: int) -> Bytes:
    """No more than the header says: a few packed bytes may be very many unpacked."""
    zeros, kind, number, *shape = struct.unpack(f">HBB{dimensions}I", file.read(4 + 4 * dimensions))
    if (zeros, kind, number) != (0, _UNSIGNED_BYTES, dimensions):
        raise ValueError(f"not bytes of {dimensions} dimensions")
    size = math.prod(shape)
    if size > _LARGEST:
        raise ValueError(f"its header says {size} bytes; at most {_LARGEST}")
    data = file.read(size + 1)
    if len(data) != size:
        there = "more" if len(data) > size else len(data)
        raise ValueError(f"its header says {size} bytes; there are {there}")
    return np.frombuffer(data, np.uint8).reshape(shape)
