"""SQLite files: what is read, what is left out, and other programs that write meanwhile."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.examples import sqlite_store
from edge_agent.examples.sqlite_store import create_store, schema
from tests.edge_agent.examples.folders import INPUTS, LABEL, X, append, read, reason, store
from wire.plan import Input

IMAGE = Input(name="image", dtype="uint8", shape=(4, 5))


def table(path: Path, sql: str, rows=()) -> Path:
    """A file that another program made."""
    db = sqlite3.connect(path)
    db.execute(sql)
    for row in rows:
        db.execute(f"INSERT INTO examples VALUES ({', '.join('?' * len(row))})", row)
    db.commit()
    db.close()
    return path


def test_rows_are_read_in_order(tmp_path):
    store(tmp_path / "a.db", [(5, 1.0, 0.5, 2), (4, 3.0, -1e-3, 0)])
    found = read(tmp_path)
    assert found.arrays["x"].tolist() == [[1.0, 0.5], [3.0, np.float32(-1e-3)]]
    assert found.arrays["label"].tolist() == [2, 0]
    assert found.skipped == 0
    assert not found.reasons


def test_many_rows_are_read_in_blocks(tmp_path):
    store(tmp_path / "a.sqlite", [(0, k, k / 2, k % 3) for k in range(50_000)])
    found = read(tmp_path)
    np.testing.assert_array_equal(found.arrays["x"][:, 0], np.arange(50_000))
    np.testing.assert_array_equal(found.arrays["label"], np.arange(50_000) % 3)


def test_rows_that_were_deleted_leave_gaps_only(tmp_path):
    path = store(tmp_path / "a.db", [(0, k, 0, 0) for k in range(10)])
    db = sqlite3.connect(path)
    db.execute("DELETE FROM examples WHERE id % 3 = 0")
    db.commit()
    db.close()
    assert read(tmp_path).arrays["x"][:, 0].tolist() == [0, 1, 3, 4, 6, 7, 9]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint8", "bool"])
def test_many_values_are_bytes_of_the_input_s_type(tmp_path, dtype):
    i = Input(name="image", dtype=dtype, shape=(4, 5))
    create_store(tmp_path / "a.db", (i, LABEL), {})
    images = np.random.default_rng(1).integers(0, 2, size=(3, 4, 5)).astype(dtype)
    append(tmp_path / "a.db", [(0, image.tobytes(), 1) for image in images])
    found = read(tmp_path, (i, LABEL))
    assert found.arrays["image"].dtype == dtype
    np.testing.assert_array_equal(found.arrays["image"], images)


def test_the_shell_writes_one_line(tmp_path):
    """As in the documentation; skipped where there is no such program."""
    if shutil.which("sqlite3") is None:
        pytest.skip("no sqlite3 program here")
    path = store(tmp_path / "a.db")
    insert = 'INSERT INTO examples ("x.0", "x.1", "label") VALUES (0.5, 1.0, 2)'
    subprocess.run(["sqlite3", "-cmd", ".timeout 5000", path, insert], check=True, timeout=20)
    assert read(tmp_path).arrays["x"].tolist() == [[0.5, 1.0]]
    ((at,),) = sqlite3.connect(path).execute("SELECT at FROM examples")
    assert abs(at - time.time()) < 60


def test_the_table_of_the_documentation_is_the_one_that_is_made(tmp_path):
    assert sqlite_store.__doc__
    wanted = sqlite_store.__doc__.split("CREATE TABLE")[1].split(";")[0]
    made = schema((X, Input(name="label", dtype="int64", shape=())), {})
    assert made.split() == ["CREATE", "TABLE", *wanted.split()]


def test_the_owner_may_name_the_columns(tmp_path):
    table(tmp_path / "a.db", "CREATE TABLE examples (t, h, kind)", [(2.0, 1.0, 0)])
    found = read(tmp_path, columns={"x": ("h", "t"), "label": ("kind",)})
    assert found.arrays["x"].tolist() == [[1.0, 2.0]]


def test_the_owner_may_name_one_column_of_bytes(tmp_path):
    data = np.float32([1, 2]).tobytes()
    table(tmp_path / "a.db", "CREATE TABLE examples (v, label)", [(data, 0)])
    assert read(tmp_path, columns={"x": ("v",)}).arrays["x"].tolist() == [[1.0, 2.0]]


# What does not fit


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ((None, 1.0, 0), "'x.0' is NULL, expected a number"),
        ((1.0, "much", 0), "'x.1' is text, expected a number"),
        ((1.0, b"abcd", 0), "'x.1' is blob, expected a number"),
        ((1.0, "\udcff".encode("utf-8", "surrogateescape"), 0), "'x.1' is blob"),
        ((1.0, 2.0, "null"), "'label' is text, expected a number"),
        ((1.0, 2.0, 3), "'label' is not a class from 0 to 2"),
        ((1.0, 2.0, 0.5), "'label' is not a class from 0 to 2"),
        ((1.0, float("inf"), 0), "'x' is NaN or infinite"),
        ((1.0, 1e60, 0), "'x' is NaN or infinite"),
    ],
)
def test_a_row_that_does_not_fit_is_left_out_and_says_why(tmp_path, cells, why):
    sql = 'CREATE TABLE examples ("x.0", "x.1", label)'
    table(tmp_path / "a.db", sql, [(5, 6, 1), cells, (7, 8, 2)])
    found = read(tmp_path)
    assert found.arrays["x"].tolist() == [[5.0, 6.0], [7.0, 8.0]]
    assert found.skipped == 1
    assert reason(found).startswith(f"a.db example 2: {why}")


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (b"", "'x' is 0 bytes, expected 8 bytes"),
        (b"1234567", "'x' is 7 bytes, expected 8 bytes"),
        (b"123456789", "'x' is 9 bytes, expected 8 bytes"),
        (bytes(50 << 20), "'x' is 52428800 bytes, expected 8 bytes"),
        ("12345678", "'x' is text, expected 8 bytes"),
        (7, "'x' is integer, expected 8 bytes"),
        (None, "'x' is NULL, expected 8 bytes"),
        (np.float32([1, np.nan]).tobytes(), "'x' is NaN or infinite"),
    ],
)
def test_bytes_that_do_not_fit_are_left_out_and_say_why(tmp_path, cell, why):
    good = np.float32([1, 2]).tobytes()
    table(tmp_path / "a.db", "CREATE TABLE examples (x, label)", [(good, 0), (cell, 0), (good, 1)])
    found = read(tmp_path)
    assert found.arrays["label"].tolist() == [0, 1]
    assert found.skipped == 1
    assert reason(found) == f"a.db example 2: {why}"


def test_a_byte_that_is_no_bool_is_left_out(tmp_path):
    flags = Input(name="flags", dtype="bool", shape=(3,))
    table(tmp_path / "a.db", "CREATE TABLE examples (flags)", [(b"\0\1\2",), (b"\0\1\1",)])
    found = read(tmp_path, (flags,))
    assert found.arrays["flags"].tolist() == [[False, True, True]]
    assert reason(found) == "a.db example 1: 'flags' is not bool"


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("CREATE TABLE other (x)", "no table 'examples'"),
        ("CREATE TABLE examples (a, b)", "no column 'x.0'; it has a, b"),
        ("CREATE VIEW examples AS SELECT 1 AS 'x.0', 2 AS 'x.1', 0 AS label", "no table"),
        ("CREATE VIRTUAL TABLE examples USING fts5('x.0', 'x.1', label)", "no table"),
        (
            'CREATE TABLE examples ("x.0" PRIMARY KEY, "x.1", label) WITHOUT ROWID',
            "no such column: rowid",
        ),
    ],
)
def test_a_file_without_the_table_is_left_out(tmp_path, sql, why):
    table(tmp_path / "a.db", sql)
    store(tmp_path / "b.db", [(0, 1, 2, 0)])
    found = read(tmp_path)
    assert len(found) == 1
    assert reason(found).startswith(f"a.db: {why}")


def test_a_column_that_poses_as_sqlite_s_own_is_seen(tmp_path):
    sql = 'CREATE TABLE examples (rowid TEXT, "x.0", "x.1", label)'
    table(tmp_path / "a.db", sql, [("one", 1, 2, 0), ("two", 1, 2, 0)])
    assert "rowid" in reason(read(tmp_path))


def test_a_value_that_is_computed_without_measure_is_refused(tmp_path):
    sql = (
        'CREATE TABLE examples ("x.0", "x.1", "label" AS (length(hex(zeroblob(4000000)))) VIRTUAL)'
    )
    db = sqlite3.connect(tmp_path / "a.db")
    db.execute(sql)
    db.execute("INSERT INTO examples VALUES (1, 2)")
    db.commit()
    db.close()
    assert reason(read(tmp_path)) == "a.db: string or blob too big"


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0", bytes(8192)])
def test_a_file_that_is_something_else_is_left_out(tmp_path, content):
    (tmp_path / "bad.db").write_bytes(content)
    assert reason(read(tmp_path)).startswith("bad.db: ")


@given(at=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=50))
def test_a_damaged_file_is_never_a_crash(at, junk):
    with tempfile.TemporaryDirectory() as folder:
        path = store(Path(folder) / "a.db", [(0, k, k, 0) for k in range(200)])
        content = bytearray(path.read_bytes())
        start = int(at * len(content))
        content[start : start + len(junk)] = junk
        path.write_bytes(content)
        found = read(Path(folder))
        assert len(found) <= 200
        assert len(found) + found.skipped > 0 or found.reasons


# Other programs


def test_a_file_is_read_while_its_program_has_it_open(tmp_path):
    path = store(tmp_path / "a.db", [(0, 1, 2, 0)])
    db = sqlite3.connect(path, timeout=0)
    insert = 'INSERT INTO examples ("x.0", "x.1", label) VALUES (3, 4, 1)'
    db.execute(insert)
    assert len(read(tmp_path)) == 1, "the row is not there before it is committed"
    db.commit()
    assert len(read(tmp_path)) == 2, "it is in the journal"
    db.execute(insert)
    db.commit()
    db.close()
    assert len(read(tmp_path)) == 3


def test_reading_leaves_nothing_in_the_folder(tmp_path):
    """Journals of ours would lock out a program of another user."""
    store(tmp_path / "a.db", [(0, 1, 2, 0)])
    before = (tmp_path / "a.db").read_bytes()
    assert len(read(tmp_path)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]
    assert (tmp_path / "a.db").read_bytes() == before


@pytest.fixture
def locked_folder():
    """A folder that this process may not write, even when it is the superuser's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    yield folder
    if os.getuid() == 0:
        os.seteuid(0)
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_folder_that_may_not_be_written_is_read(locked_folder, mode):
    path = store(locked_folder / "a.db", [(0, 1, 2, 0)])
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA journal_mode = {mode}")
    db.close()
    locked_folder.chmod(0o555)
    path.chmod(0o444)
    if os.getuid() == 0:
        os.seteuid(65534)
    assert len(read(locked_folder)) == 1


def test_a_database_that_stays_locked_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "BUSY_SECONDS", 0.1)
    path = store(tmp_path / "a.db", [(0, 1, 2, 0)])
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    assert reason(read(tmp_path)) == "a.db: database is locked"
    assert time.monotonic() - started < 5
    db.close()


_WRITER = """
import sqlite3, sys, time
path, mode = sys.argv[1:]
db = sqlite3.connect(path, timeout=10, isolation_level=None)
db.execute(f"PRAGMA journal_mode = {mode}")
db.execute("PRAGMA wal_autocheckpoint = 4")
end, k = time.monotonic() + 20, 100
print("ready", flush=True)
while time.monotonic() < end and k < 100_000:
    db.execute('INSERT INTO examples ("x.0", "x.1", label) VALUES (?, ?, ?)', (k, 2 * k, k % 3))
    k += 1
    if k % 50 == 0:  # as a program that opens the file for each of its rows
        db.close()
        db = sqlite3.connect(path, timeout=10, isolation_level=None)
        db.execute("PRAGMA synchronous = OFF")
"""


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_program_appends_while_we_read(tmp_path, mode):
    path = store(tmp_path / "a.db", [(0, k, 2 * k, k % 3) for k in range(100)])
    command = [sys.executable, "-c", _WRITER, str(path), mode]
    seen = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
            end = time.monotonic() + 10
            while len(set(seen)) < 15 and time.monotonic() < end:
                found = read(tmp_path)
                assert not found.reasons
                k = np.arange(len(found))
                np.testing.assert_array_equal(found.arrays["x"], np.stack([k, 2 * k], axis=1))
                seen.append(len(found))
            assert writer.poll() is None, "reading did not stop the writer"
        finally:
            writer.kill()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] >= 100


# Making one


def test_what_the_table_can_check_the_program_hears_of(tmp_path):
    create_store(tmp_path / "a.db", (IMAGE, LABEL), {})
    for row in [(0, bytes(19), 0), (0, bytes(20), 3), (0, bytes(20), -1), (0, None, 0)]:
        with pytest.raises(sqlite3.IntegrityError):
            append(tmp_path / "a.db", [row])
    append(tmp_path / "a.db", [(0, bytes(20), 2)])
    assert len(read(tmp_path, (IMAGE, LABEL))) == 1


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    path = store(tmp_path / "a.db", [(0, 1, 2, 0)])
    with pytest.raises(FileExistsError):
        create_store(path, INPUTS, {})
    assert len(read(tmp_path)) == 1


def test_a_name_that_would_not_be_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.db or \.sqlite"):
        create_store(tmp_path / "a.sql", INPUTS, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["at", "ID", "LABEL"])
def test_columns_that_would_have_one_name_are_named_by_the_owner(tmp_path, name):
    inputs = (LABEL, Input(name=name, dtype="float32", shape=()))
    with pytest.raises(ValueError, match=f"name those of '{name}' in data.columns"):
        create_store(tmp_path / "a.db", inputs, {})
    columns = {name: ("other",)}
    create_store(tmp_path / "a.db", inputs, columns)
    append(tmp_path / "a.db", [(0, 1, 2.5)])
    assert read(tmp_path, inputs, columns).arrays[name].tolist() == [2.5]


def test_odd_names_are_quoted(tmp_path):
    odd = Input(name='x"); DROP TABLE examples; --', dtype="float32", shape=(2,))
    create_store(tmp_path / "a.db", (odd,), {})
    append(tmp_path / "a.db", [(0, 1.0, 2.0)])
    assert read(tmp_path, (odd,)).arrays[odd.name].tolist() == [[1.0, 2.0]]


def test_the_table_keeps_indices_to_their_range(tmp_path):
    word = Input(name="t", dtype="int64", shape=(), range=(-11.0, 10.0))
    path = store(tmp_path / "a.db", [(1, 10), (2, -11)], (word,))
    for value in (11, -12):
        with pytest.raises(sqlite3.IntegrityError):
            append(path, [(3, value)])
    assert read(tmp_path, inputs=(word,)).arrays["t"].tolist() == [10, -11]


def test_the_table_takes_a_label_that_does_not_count_and_keeps_to_a_range(tmp_path):
    label = Input(name="label", dtype="int64", shape=(), classes=3, ignored=-100)
    target = Input(name="t", dtype="float32", shape=(), range=(0.0, 1.0))
    path = store(tmp_path / "a.db", [(1, -100, 0.5), (2, 2, 1)], (label, target))
    for row in ((3, -1, 0.5), (3, 3, 0.5), (3, 0, 1.5)):
        with pytest.raises(sqlite3.IntegrityError):
            append(path, [row])
    found = read(tmp_path, inputs=(label, target))
    assert found.arrays["label"].tolist() == [-100, 2]
