"""What is read of `.npz` and `.csv` files and of folders, and what is left out and why."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.examples import loading
from tests.edge_agent.examples.folders import read, reason, some
from wire.plan import Input

# NumPy files


def test_arrays_are_read_in_order_of_file_name(tmp_path):
    np.savez(tmp_path / "b.npz", **some(seed=2))
    np.savez_compressed(tmp_path / "a.npz", **some(seed=1), extra=np.zeros(3))
    (tmp_path / "notes.txt").write_text("not mine")
    found = read(tmp_path)
    assert len(found) == 12
    assert found.skipped == 0
    assert not found.reasons
    np.testing.assert_array_equal(found.arrays["x"][:6], some(seed=1)["x"])
    np.testing.assert_array_equal(found.arrays["label"][6:], some(seed=2)["label"])


def test_arrays_of_a_wider_type_of_the_same_kind_are_taken(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), label=np.ones(3, np.uint8))
    found = read(tmp_path)
    assert found.arrays["x"].dtype == np.float32
    assert found.arrays["label"].dtype == np.int64
    assert len(found) == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"x": None}, "no array 'x'; it has label"),
        ({"x": np.zeros((6, 3), np.float32)}, r"'x' has shape \(6, 3\), expected \(n, \*\(2,\)\)"),
        ({"x": np.float32(0)}, r"'x' has shape \(\)"),
        ({"x": np.zeros((5, 2), np.float32)}, "different lengths"),
        ({"x": np.zeros((6, 2), complex)}, "'x' is complex128, expected float32"),
        ({"x": np.full((6, 2), "1")}, "'x' is <U1, expected float32"),
        ({"label": np.zeros(6)}, "'label' is float64, expected int64"),
        ({"label": np.zeros((6, 1), int)}, "'label' has shape"),
        ({"label": np.array([None] * 6)}, "allow_pickle=False"),
    ],
)
def test_a_file_that_does_not_fit_is_left_out_and_says_why(tmp_path, changes, why):
    np.savez(tmp_path / "good.npz", **some())
    arrays = {k: v for k, v in (some() | changes).items() if v is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    found = read(tmp_path)
    assert len(found) == 6
    assert reason(found).startswith("bad.npz: ")
    with pytest.raises(ValueError, match=why):
        raise ValueError(reason(found))


class Bomb:
    """Unpickling it would be seen."""

    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


@pytest.mark.parametrize("where", ["the file", "an array"])
def test_nothing_is_ever_unpickled(tmp_path, where):
    if where == "the file":
        (tmp_path / "bad.npz").write_bytes(pickle.dumps(Bomb()))
    else:
        np.savez(tmp_path / "bad.npz", x=np.array([Bomb()], object), label=np.zeros(1, int))
    found = read(tmp_path)
    assert len(found) == 0
    assert reason(found).startswith("bad.npz: ")


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_something_else_is_left_out(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    assert reason(read(tmp_path)).startswith("bad.npz: ")


def test_a_single_array_named_as_an_archive_is_left_out(tmp_path):
    with (tmp_path / "bad.npz").open("wb") as file:
        np.save(file, np.zeros((3, 2)))
    assert reason(read(tmp_path)).startswith("bad.npz: ")


def test_a_folder_named_as_a_file_is_left_out(tmp_path):
    (tmp_path / "bad.npz").mkdir()
    (tmp_path / "bad.csv").mkdir()
    assert len(read(tmp_path).reasons) == 2


@given(cut=st.integers(1, 700))
def test_a_truncated_file_is_left_out(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("data")
    content = npz(**some())
    (folder / "bad.npz").write_bytes(content[:-cut])
    assert reason(read(folder)).startswith("bad.npz: ")


@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_a_file_with_a_wrong_byte_is_never_a_crash(tmp_path_factory, at, value):
    folder = tmp_path_factory.mktemp("data")
    content = bytearray(npz(**some()))
    content[int(at * len(content))] = value
    (folder / "bad.npz").write_bytes(content)
    found = read(folder)
    assert len(found) + found.skipped == 6 or found.reasons


def test_an_encrypted_or_oddly_compressed_archive_is_left_out(tmp_path):
    for name, kind in (("a.npz", zipfile.ZIP_LZMA), ("b.npz", zipfile.ZIP_BZIP2)):
        with zipfile.ZipFile(tmp_path / name, "w", kind) as archive:
            archive.writestr("x.npy", b"not an array")
            archive.writestr("label.npy", b"nor this")
    assert len(read(tmp_path).reasons) == 2


def test_a_header_that_claims_more_than_there_is_is_left_out(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 60, 2)}
    )
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("label.npy", header.getvalue())
    assert reason(read(tmp_path)).startswith("bad.npz: ")


# Values


def test_examples_that_are_not_finite_are_left_out_alone(tmp_path):
    arrays = some()
    arrays["x"][1, 0] = np.nan
    arrays["x"][4, 1] = -np.inf
    np.savez(tmp_path / "a.npz", **arrays)
    found = read(tmp_path)
    assert len(found) == 4
    assert found.skipped == 2
    assert reason(found) == "a.npz example 1: 'x' is NaN or infinite"
    np.testing.assert_array_equal(found.arrays["label"], arrays["label"][[0, 2, 3, 5]])


def test_numbers_too_large_for_the_plan_s_type_are_left_out(tmp_path):
    arrays = some() | {"x": np.ones((6, 2))}
    arrays["x"][2] = 1e300
    np.savez(tmp_path / "a.npz", **arrays)
    assert len(read(tmp_path)) == 5


@pytest.mark.parametrize("label", [-1, 3, 1 << 40])
def test_labels_out_of_range_are_left_out(tmp_path, label):
    arrays = some()
    arrays["label"][3] = label
    np.savez(tmp_path / "a.npz", **arrays)
    found = read(tmp_path)
    assert found.skipped == 1
    assert reason(found) == "a.npz example 3: 'label' is not a class from 0 to 2"


def test_whole_numbers_do_not_wrap_around(tmp_path):
    token = Input(name="token", dtype="int32", shape=())
    np.savez(tmp_path / "a.npz", token=np.array([1, (1 << 32) + 1, -5]))
    found = read(tmp_path, (token,))
    assert found.arrays["token"].tolist() == [1, -5]
    assert reason(found) == "a.npz example 1: 'token' is not int32"


def test_one_example_that_breaks_two_rules_counts_once(tmp_path):
    arrays = some()
    arrays["x"][3] = np.nan
    arrays["label"][3] = 9
    np.savez(tmp_path / "a.npz", **arrays)
    assert read(tmp_path).skipped == 1


def test_the_first_reasons_are_kept_and_all_examples_counted(tmp_path):
    for number in range(20):
        arrays = some()
        arrays["label"][0] = 9
        np.savez(tmp_path / f"{number:02}.npz", **arrays)
    found = read(tmp_path)
    assert found.skipped == 20
    assert len(found.reasons) == 5


# CSV files


def csv(folder, text, name="a.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)


def test_rows_are_read_by_the_names_of_their_columns(tmp_path):
    csv(tmp_path, "label,ignored,x.1,x.0\n2,z,0.5,1\n0,z,-1e-3,4\n")
    found = read(tmp_path)
    assert found.arrays["x"].tolist() == [[1.0, 0.5], [4.0, np.float32(-1e-3)]]
    assert found.arrays["label"].tolist() == [2, 0]
    assert found.skipped == 0


def test_rows_and_arrays_with_one_content_are_the_same_examples(tmp_path):
    csv(tmp_path, "x.0,x.1,label\n1,0.5,2\n")
    np.savez(tmp_path / "b.npz", x=np.float32([[1, 0.5]]), label=np.array([2]))
    found = read(tmp_path)
    for array in found.arrays.values():
        assert array[0].tobytes() == array[1].tobytes()


def test_the_owner_may_say_which_columns_make_an_input(tmp_path):
    csv(tmp_path, "temperature, humidity ,kind\n1,2,0\n")
    found = read(tmp_path, columns={"x": ("humidity", "temperature"), "label": ("kind",)})
    assert found.arrays["x"].tolist() == [[2.0, 1.0]]


@pytest.mark.parametrize("text", ["\ufeffx.0,x.1,label\r\n1,2,0\r\n", "x.0,x.1,label\n1,2,0\n\n\n"])
def test_marks_and_blank_lines_of_spreadsheets_do_no_harm(tmp_path, text):
    csv(tmp_path, text)
    found = read(tmp_path)
    assert len(found) == 1
    assert found.skipped == 0


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("1,2,0.5", "a.csv example 0: 'label' is not a class from 0 to 2"),
        ("1,2,3", "a.csv example 0: 'label' is not a class"),
        ("1,2,-1", "a.csv example 0: 'label' is not a class"),
        ("1,2,nan", "a.csv example 0: 'label' is not a class"),
        ("1,2,1e300", "a.csv example 0: 'label' is not a class"),
        ("nan,2,0", "a.csv example 0: 'x' is NaN or infinite"),
        ("1,inf,0", "a.csv example 0: 'x' is NaN or infinite"),
        ("1,1e60,0", "a.csv example 0: 'x' is NaN or infinite"),
        ("1,2", "a.csv line 2: not a number in each column"),
        ("one,2,0", "a.csv line 2: not a number in each column"),
        (",2,0", "a.csv line 2: not a number in each column"),
    ],
)
def test_a_row_that_does_not_fit_is_left_out_and_says_why(tmp_path, row, why):
    csv(tmp_path, f"x.0,x.1,label\n{row}\n5,6,1\n")
    found = read(tmp_path)
    assert found.arrays["x"].tolist() == [[5.0, 6.0]]
    assert found.skipped == 1
    assert reason(found).startswith(why)


@pytest.mark.parametrize(("dtype", "value"), [("uint8", "300"), ("uint8", "-1"), ("bool", "0.5")])
def test_a_number_that_a_small_type_cannot_hold_is_left_out(tmp_path, dtype, value):
    csv(tmp_path, f"p\n{value}\n1\n")
    found = read(tmp_path, (Input(name="p", dtype=dtype, shape=()),))
    assert found.arrays["p"].tolist() == [1]
    assert reason(found) == f"a.csv example 0: 'p' is not {dtype}"


@pytest.mark.parametrize(
    ("text", "columns", "why"),
    [
        ("", {}, "a.csv: no column 'x.0'; it has "),
        ("a,b,label\n1,2,0\n", {}, "a.csv: no column 'x.0'; it has a, b, label"),
        ("a,label\n1,0\n", {"x": ("a",)}, "a.csv: 1 columns are named for 'x', it has 2 values"),
        ("a,label\n1,0\n", {"x": ("a", "b")}, "a.csv: no column 'b'; it has a, label"),
    ],
)
def test_a_table_without_the_columns_is_left_out(tmp_path, text, columns, why):
    csv(tmp_path, text)
    assert reason(read(tmp_path, columns=columns)) == why


@pytest.mark.parametrize(
    "content", [b"x.0,x.1,label\n\xff,2,0\n", b"x.0,x.1,label\n" + b"1" * 200_000 + b",2,0\n"]
)
def test_a_table_that_is_none_is_left_out(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    found = read(tmp_path)
    assert len(found) == 0
    assert reason(found).startswith("a.csv: ")


def test_a_large_file_is_read_in_blocks_and_its_rows_keep_their_numbers(tmp_path):
    rows = [f"{k},{k / 2},{k % 3}" for k in range(70_000)]
    rows[69_000] = "1,2,9"
    csv(tmp_path, "x.0,x.1,label\n" + "\n".join(rows))
    found = read(tmp_path)
    assert reason(found).startswith("a.csv example 69000: ")
    expected = np.delete(np.arange(70_000), 69_000)
    np.testing.assert_array_equal(found.arrays["x"][:, 0], expected.astype(np.float32))
    np.testing.assert_array_equal(found.arrays["label"], expected % 3)


def test_a_whole_number_that_a_float_cannot_tell_is_left_out(tmp_path):
    csv(tmp_path, f"token\n{2**53 + 1}\n{2**53 - 1}\n")
    found = read(tmp_path, (Input(name="token", dtype="int64", shape=()),))
    assert found.arrays["token"].tolist() == [2**53 - 1]
    np.savez(tmp_path / "a.npz", token=np.array([2**53 + 1]))
    found = read(tmp_path, (Input(name="token", dtype="int64", shape=()),))
    assert found.arrays["token"].tolist() == [2**53 - 1, 2**53 + 1]


def test_the_rows_before_a_damaged_place_are_kept(tmp_path):
    csv(tmp_path, "x.0,x.1,label\n" + "1,2,0\n" * 40_000)
    with (tmp_path / "a.csv").open("ab") as file:
        file.write(b"\xff,2,0\n")
    found = read(tmp_path)
    assert 0 < len(found) <= 40_000
    assert reason(found).startswith("a.csv: ")


# Folders


def test_an_empty_folder_has_no_examples(tmp_path):
    found = read(tmp_path)
    assert len(found) == 0
    assert found.arrays["x"].shape == (0, 2)
    assert not found.reasons


def test_a_pipe_named_as_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "a.db")
    assert read(tmp_path).reasons == ["a.csv: it is not a file", "a.db: it is not a file"]


def test_a_folder_that_is_not_there_is_a_reason(tmp_path):
    assert reason(read(tmp_path / "gone")) == "No such file or directory"


def test_a_file_in_place_of_a_folder_is_a_reason(tmp_path):
    (tmp_path / "file").write_text("")
    assert reason(read(tmp_path / "file")) == "Not a directory"


def test_a_header_that_claims_more_than_the_file_holds_costs_no_memory(tmp_path):
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 4)}
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue() + b"few bytes")
    found = loading.load(tmp_path, (Input(name="x", dtype="float32", shape=(4,)),), {})
    assert len(found) == 0
    assert found.reasons == ["bomb.npz: 'x.npy' claims 17592186044416 bytes, it has 137"]


def test_a_label_that_does_not_count_is_taken_as_it_is(tmp_path):
    label = Input(name="label", dtype="int64", shape=(2,), classes=3, ignored=-100)
    np.savez(tmp_path / "a.npz", label=np.array([[0, -100], [1, 2], [-1, 0], [3, 0]]))
    found = read(tmp_path, inputs=(label,))
    assert found.arrays["label"].tolist() == [[0, -100], [1, 2]]
    assert found.skipped == 2
    assert reason(found) == ("a.npz example 2: 'label' is not a class from 0 to 2, nor -100")


def test_a_number_out_of_range_is_skipped(tmp_path):
    target = Input(name="t", dtype="float32", shape=(2,), range=(0.0, 1.0))
    np.savez(tmp_path / "a.npz", t=np.array([[0, 1], [0.5, 255], [np.nan, 0], [-0.1, 0]]))
    found = read(tmp_path, inputs=(target,))
    assert found.arrays["t"].tolist() == [[0, 1]]
    assert (found.skipped, reason(found)) == (3, "a.npz example 1: 't' is not a number from 0 to 1")


def test_an_index_beyond_the_table_is_skipped(tmp_path):
    word = Input(name="t", dtype="int64", shape=(2,), range=(-11.0, 10.0))
    (tmp_path / "a.csv").write_text("t.0,t.1\n0,10\n-11,1\n11,0\n0,-12\n0.5,0\n")
    found = read(tmp_path, inputs=(word,))
    assert found.arrays["t"].tolist() == [[0, 10], [-11, 1]]
    assert found.skipped == 3
    assert "'t' is not a whole number from -11 to 10" in found.reasons[0]
