"""Parquet files: what is read, what is left out and why; and a device without pyarrow."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tests.edge_agent.examples.folders import read, reason
from wire.plan import Input


def write(folder: Path, columns, **options) -> None:
    parquet.write_table(pa.table(columns), folder / "a.parquet", **options)


def columns(**changes):
    return {"x.0": [1.0, 2.0], "x.1": [0.5, 0.25], "label": [0, 2]} | changes


def test_rows_are_read_by_the_names_of_their_columns(tmp_path):
    write(tmp_path, columns(other=["a", "b"]))
    found = read(tmp_path)
    assert found.arrays["x"].tolist() == [[1.0, 0.5], [2.0, 0.25]]
    assert found.arrays["label"].tolist() == [0, 2]
    assert not found.reasons


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64())])
def test_a_column_of_lists_is_an_input_of_many_values(tmp_path, kind):
    write(tmp_path, {"x": pa.array([[1, 2], [3, 4]], kind), "label": [0, 2]})
    assert read(tmp_path).arrays["x"].tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_lists_of_fixed_length_have_the_input_s_shape(tmp_path):
    image = Input(name="image", dtype="uint8", shape=(2, 3))
    rows = np.arange(60, dtype=np.uint8).reshape(10, 6).tolist()
    write(tmp_path, {"image": pa.array(rows, pa.list_(pa.uint8(), 6))})
    found = read(tmp_path, (image,))
    np.testing.assert_array_equal(
        found.arrays["image"], np.arange(60, dtype=np.uint8).reshape(10, 2, 3)
    )


def test_many_rows_are_read_in_blocks(tmp_path):
    k = np.arange(100_000)
    write(tmp_path, {"x.0": k, "x.1": k / 2, "label": k % 3}, row_group_size=30_000)
    found = read(tmp_path)
    np.testing.assert_array_equal(found.arrays["x"][:, 0], k)
    np.testing.assert_array_equal(found.arrays["label"], k % 3)


def test_the_owner_may_name_the_columns(tmp_path):
    write(tmp_path, {"t": [2.0], "h": [1.0], "kind": [0]})
    found = read(tmp_path, columns={"x": ("h", "t"), "label": ("kind",)})
    assert found.arrays["x"].tolist() == [[1.0, 2.0]]


def test_whole_numbers_of_64_bits_are_exact(tmp_path):
    write(tmp_path, {"token": [2**53 + 1, -(2**63)]})
    found = read(tmp_path, (Input(name="token", dtype="int64", shape=()),))
    assert found.arrays["token"].tolist() == [2**53 + 1, -(2**63)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"label": [0, None]}, "example 1: 'label' is null"),
        ({"x.0": [1.0, None]}, "example 1: 'x.0' is null"),
        ({"x.0": [1.0, float("nan")]}, "example 1: 'x' is NaN or infinite"),
        ({"label": [0, 3]}, "example 1: 'label' is not a class from 0 to 2"),
        ({"label": [0.0, 0.5]}, "example 1: 'label' is not a class from 0 to 2"),
        ({"x": [[1.0, 0.5], [1.0]]}, "example 1: 'x' is no list of 2 values"),
        ({"x": [[1.0, 0.5], None]}, "example 1: 'x' is no list of 2 values"),
        ({"x": [[1.0, 0.5], [1.0, None]]}, "example 1: 'x' is NaN or infinite"),
    ],
)
def test_a_row_that_does_not_fit_is_left_out_and_says_why(tmp_path, changes, why):
    write(tmp_path, columns(**changes))
    found = read(tmp_path)
    assert found.arrays["x"].tolist() == [[1.0, 0.5]]
    assert found.arrays["label"].tolist() == [0]
    assert found.skipped == 1
    assert reason(found) == f"a.parquet {why}"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"label": ["0", "1"]}, "'label' is string, expected numbers"),
        ({"label": [[0], [1]]}, "'label' is list<element: int64>, expected numbers"),
        ({"x": [1.0, 2.0]}, "'x' is double, expected lists"),
        ({"x": [["1", "2"], ["3", "4"]]}, "'x' is string, expected numbers"),
    ],
)
def test_columns_of_other_types_are_a_reason(tmp_path, changes, why):
    write(tmp_path, columns(**changes))
    found = read(tmp_path)
    assert len(found) == 0
    assert reason(found) == f"a.parquet: {why}"


def test_a_file_without_the_columns_is_left_out(tmp_path):
    write(tmp_path, {"x.0": [1.0], "label": [0]})
    assert reason(read(tmp_path)) == "a.parquet: no column 'x.1'; it has x.0, label"


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_something_else_is_left_out(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    assert reason(read(tmp_path)).startswith("a.parquet: ")


@given(cut=st.integers(1, 500))
def test_a_truncated_file_is_left_out(cut):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), columns())
        path = Path(folder) / "a.parquet"
        path.write_bytes(path.read_bytes()[:-cut])
        assert reason(read(Path(folder))).startswith("a.parquet: ")


_WITHOUT = """
import sys
sys.modules["pyarrow"] = None  # as where it is not installed
from pathlib import Path
from tests.edge_agent.examples.folders import read
found = read(Path(sys.argv[1]))
print(len(found), *found.reasons)
"""


def test_without_pyarrow_such_a_file_is_left_out_and_says_what_to_install(tmp_path):
    write(tmp_path, columns())
    (tmp_path / "b.csv").write_text("x.0,x.1,label\n1,2,0\n")
    said = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stdout == "1 a.parquet: needs pyarrow: pip install 'lamplighter[parquet]'\n"
