"""Digits in MNIST's format that are easy to learn: each class has two bright lines of its own."""

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

TRAINING, TEST = 600, 200


def write(folder: Path) -> None:
    """The four files, with as many digits of each class."""
    for name, count in (("train", TRAINING), ("t10k", TEST)):
        rng = np.random.default_rng(count)
        labels = rng.permutation(np.arange(count) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (count, 28, 28), np.uint8)
        for line in (0, 1):
            images[np.arange(count), 2 * labels + 4 + line] = 250
        _idx(folder / f"{name}-images-idx3-ubyte.gz", images)
        _idx(folder / f"{name}-labels-idx1-ubyte.gz", labels)


def _idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    head = struct.pack(">HBB", 0, 8, array.ndim) + shape
    path.write_bytes(gzip.compress(head + array.tobytes(), 1))
