"""Which examples are held out: always the same ones, whatever file they come from."""

import csv
import sqlite3
import tempfile
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.examples import Examples
from edge_agent.examples.sqlite_store import create_store
from tests.edge_agent.examples.folders import read, some
from wire.plan import Input


def rows(examples: Examples) -> set[bytes]:
    return {x.tobytes() for x in examples.arrays["x"]}


def held_out(folder, hold_out=0.2) -> set[bytes]:
    return rows(read(folder).split(hold_out)[1])


@pytest.fixture
def many(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    np.savez(folder / "a.npz", **some(2000))
    return folder


@pytest.mark.parametrize("hold_out", [0.0, 0.05, 0.2, 0.5, 0.9])
def test_the_part_held_out_is_close_to_what_was_asked(many, hold_out):
    training, held = read(many).split(hold_out)
    assert len(training) + len(held) == 2000
    assert not rows(training) & rows(held)
    assert abs(len(held) / 2000 - hold_out) < 0.03


def test_a_larger_part_holds_the_smaller_one(many):
    assert held_out(many, 0.1) < held_out(many, 0.3)


def test_the_part_held_out_does_not_depend_on_order_or_files(many, tmp_path):
    arrays = some(2000)
    order = np.random.default_rng(5).permutation(2000)
    for number, part in enumerate(np.array_split(order, 3)):
        np.savez(tmp_path / f"{number}.npz", **{n: a[part] for n, a in arrays.items()})
    assert held_out(tmp_path) == held_out(many)


def test_appending_moves_nothing_to_the_other_side(many):
    before = held_out(many)
    old = rows(read(many))
    np.savez(many / "b.npz", **some(500, seed=9))
    after = held_out(many)
    assert after & old == before
    assert after > before


def test_equal_examples_are_on_one_side(tmp_path):
    once = some(50)
    np.savez(tmp_path / "a.npz", **{n: np.concatenate([a, a]) for n, a in once.items()})
    training, held = read(tmp_path).split(0.4)
    assert len(held) % 2 == len(training) % 2 == 0
    assert not rows(training) & rows(held)


def test_the_function_of_the_bytes_is_the_one_that_devices_divided_their_data_by():
    """Written out again, a row at a time."""
    rng = np.random.default_rng(4)
    arrays = {
        "x": np.asfortranarray(rng.normal(size=(40_000, 3, 2)).astype(np.float32)),
        "flag": rng.integers(0, 2, size=(40_000, 5)).astype(bool)[:, ::2],
        "label": rng.integers(0, 10, size=40_000),
    }
    digests = [
        blake2b(b"".join(a[k].tobytes() for a in arrays.values()), digest_size=8).digest()
        for k in range(40_000)
    ]
    expected = np.array([int.from_bytes(d, "big") / 2.0**64 < 0.2 for d in digests])
    training, held = Examples(arrays).split(0.2)
    for name, array in arrays.items():
        np.testing.assert_array_equal(held.arrays[name], array[expected])
        np.testing.assert_array_equal(training.arrays[name], array[~expected])


def test_no_examples_can_be_divided(tmp_path):
    training, held = read(tmp_path).split(0.5)
    assert len(training) == len(held) == 0


MIXED = (
    Input(name="x", dtype="float32", shape=(2,)),
    Input(name="y", dtype="float64", shape=()),
    Input(name="token", dtype="int32", shape=()),
    Input(name="flag", dtype="bool", shape=()),
)
# SQLite keeps no sign of a zero in a REAL column.
numbers = st.floats(-1e30, 1e30).map(lambda value: value + 0.0)
mixed = st.tuples(
    numbers, numbers, numbers, st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, 1)
)


def as_csv(folder: Path, rows) -> None:
    with (folder / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("x.0", "x.1", "y", "token", "flag"), *rows])


def as_sqlite(folder: Path, rows) -> None:
    create_store(folder / "a.db", MIXED, {})
    db = sqlite3.connect(folder / "a.db")
    db.executemany(
        'INSERT INTO examples ("x.0", "x.1", y, token, flag) VALUES (?, ?, ?, ?, ?)', rows
    )
    db.commit()
    db.close()


def as_blobs(folder: Path, rows) -> None:
    db = sqlite3.connect(folder / "a.sqlite")
    db.execute("CREATE TABLE examples (at, x, y, token, flag)")
    blobs = [(np.array(row[:2], "<f4").tobytes(), *row[2:]) for row in rows]
    db.executemany("INSERT INTO examples VALUES (0, ?, ?, ?, ?)", blobs)
    db.commit()
    db.close()


def as_parquet(folder: Path, rows) -> None:
    x0, x1, y, token, flag = zip(*rows, strict=True)
    lists = pa.array(list(zip(x0, x1, strict=True)), pa.list_(pa.float64()))
    table = pa.table({"x": lists, "y": y, "token": token, "flag": pa.array(flag).cast(pa.bool_())})
    pyarrow.parquet.write_table(table, folder / "a.parquet")


def as_npz(folder: Path, rows) -> None:
    x0, x1, y, token, flag = zip(*rows, strict=True)
    arrays = {"x": np.stack([x0, x1], axis=1), "y": np.array(y)}
    np.savez(folder / "a.npz", **arrays, token=np.array(token), flag=np.array(flag, bool))


@given(rows=st.lists(mixed, min_size=1, max_size=30))
def test_one_row_is_on_one_side_in_every_format(rows):
    sides = []
    for write in (as_csv, as_sqlite, as_blobs, as_parquet, as_npz):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), rows)
            found = read(Path(folder), MIXED)
        assert not found.reasons
        sides.append([part.arrays for part in found.split(0.4)])
    for training, held in sides[1:]:
        for name in training:
            assert training[name].tobytes() == sides[0][0][name].tobytes()
            assert held[name].tobytes() == sides[0][1][name].tobytes()
