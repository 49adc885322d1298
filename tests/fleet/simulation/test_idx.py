"""IDX files, gzipped or not; what is missing is named, with where to get it."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fleet.simulation import idx
from wire.plan import Input

INPUTS = (
    Input(name="x", dtype="float32", shape=(784,)),
    Input(name="label", dtype="int64", shape=(), classes=10),
)


def write(folder: Path, packed: bool = True) -> None:
    rng = np.random.default_rng(1)
    for name, count in (("train", 20), ("t10k", 5)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for part, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            data = head + array.tobytes()
            path = folder / f"{name}-{part}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data, 1) if packed else data)


@pytest.mark.parametrize("packed", [True, False])
def test_pictures_become_a_plans_inputs(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, packed)
    training, test = idx.load(tmp_path)
    assert training.images.shape == (20, 28, 28)
    found = test.examples(slice(1, 4), INPUTS).arrays
    assert found["x"].shape == (3, 784)
    np.testing.assert_allclose(found["x"], test.images[1:4].reshape(3, 784) / 255, rtol=1e-6)
    assert list(found["label"]) == [1, 2, 3]


def test_a_missing_file_is_named_and_where_it_is(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(idx.DataMissing, match=rf"{tmp_path}/t10k-labels-idx1-ubyte.*{idx.SOURCE}"):
        idx.load(tmp_path)


@pytest.mark.parametrize(
    "data", [b"", b"no gzip", gzip.compress(b"\0\0\x09\x03" + b"\0" * 12), gzip.compress(b"\0\0")]
)
def test_what_is_no_idx_is_named(tmp_path: Path, data: bytes) -> None:
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(data)
    with pytest.raises(idx.DataMissing, match=path.name):
        idx.load(tmp_path)


def test_as_many_pictures_as_labels(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 2) + b"\1\2"))
    with pytest.raises(idx.DataMissing, match="20 images and 2 labels"):
        idx.load(tmp_path)


def test_other_pictures_than_the_plans_are_not_cut_into_its() -> None:
    pictures = idx.Digits(np.zeros((8, 28, 28), np.uint8), np.zeros(8, np.uint8))
    smaller = Input(name="x", dtype="float32", shape=(14, 14))
    with pytest.raises(ValueError, match="reshape"):
        pictures.examples(slice(None), (smaller,))


def test_a_file_that_is_damaged_where_it_is_packed_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    packed = bytearray(path.read_bytes())
    packed[12] ^= 0xFF
    path.write_bytes(packed)
    with pytest.raises(idx.DataMissing, match=r"train-images-idx3-ubyte.gz cannot be read"):
        idx.load(tmp_path)


@pytest.mark.parametrize("labels", [20, 0xFFFFFFFF])
def test_no_more_is_unpacked_than_its_header_says(tmp_path: Path, labels: int) -> None:
    write(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(struct.pack(">HBBI", 0, 8, 1, labels))
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(idx.DataMissing, match=f"its header says {labels} bytes"):
            idx.load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
