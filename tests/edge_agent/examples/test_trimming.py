"""Examples leave the disk: real files, real SQLite, and what is in their bytes afterwards."""

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest

from edge_agent.examples import sqlite_store
from edge_agent.examples.folder import bytes_in
from edge_agent.examples.retention import Retention, Trimmed
from edge_agent.examples.summary import describe
from edge_agent.examples.trimming import enforce, forget
from tests.edge_agent.examples.folders import INPUTS, append, some, store

NOW = 1_000_000.0
SECRET = b"a secret of the owner's "


def npz(path: Path, made: float, count=10) -> Path:
    np.savez(path, **some(count))
    os.utime(path, (made, made))
    return path


def notes(path: Path, made, mode="wal", auto_vacuum=2) -> Path:
    """An SQLite file of rows, each with a text of its own that can be searched for."""
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
    db.execute(f"PRAGMA journal_mode = {mode}")
    db.execute("CREATE TABLE examples (id INTEGER PRIMARY KEY AUTOINCREMENT, at, note)")
    db.commit()
    for part in (made[: len(made) // 2], made[len(made) // 2 :]):  # a journal holds what was before
        rows = [(at, _note(at)) for at in part]
        db.executemany("INSERT INTO examples (at, note) VALUES (?, ?)", rows)
        db.commit()
    db.close()
    return path


def more_notes(path: Path, made) -> None:
    db = sqlite3.connect(path, timeout=5)
    db.executemany(
        "INSERT INTO examples (at, note) VALUES (?, ?)", [(at, _note(at)) for at in made]
    )
    db.commit()
    db.close()


def _note(at: float) -> bytes:
    return (SECRET + b"%d. " % at).ljust(400, b"x")


def times(path: Path) -> list[float]:
    db = sqlite3.connect(path)
    found = [row[0] for row in db.execute("SELECT at FROM examples ORDER BY at, id")]
    db.close()
    return found


def found_on_disk(folder: Path, made) -> list[float]:
    """Whose texts are in the raw bytes of any file of the folder."""
    raw = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    return [at for at in made if SECRET + b"%d. " % at in raw]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whole files


def test_old_files_go_and_new_ones_stay(tmp_path):
    npz(tmp_path / "old.npz", NOW - 101)
    npz(tmp_path / "new.npz", NOW - 99)
    old = tmp_path / "old.csv"
    old.write_text("x.0,x.1,label\n1,2,0\n3,4,1\n")
    os.utime(old, (NOW - 500, NOW - 500))
    size = old.stat().st_size + (tmp_path / "old.npz").stat().st_size
    assert enforce(tmp_path, Retention(age=100.0), NOW) == Trimmed(12, 2, size, ())
    assert names(tmp_path) == ["new.npz"]


def test_what_is_not_ours_is_not_touched(tmp_path):
    for name in ("notes.txt", "a.npz.part", "folder.npz"):
        path = tmp_path / name
        path.mkdir() if name.startswith("folder") else path.write_text("mine")
        os.utime(path, (1, 1))
    assert enforce(tmp_path, Retention(age=100.0), NOW) == Trimmed()
    assert forget(tmp_path) == Trimmed()
    assert len(names(tmp_path)) == 3


def test_links_are_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "folder").mkdir()
    mine = npz(tmp_path / "elsewhere" / "mine.npz", 1)
    base = notes(tmp_path / "elsewhere" / "mine.db", [1, 2])
    (tmp_path / "folder" / "a.npz").symlink_to(mine)
    (tmp_path / "folder" / "b.db").symlink_to(base)
    for trimmed in (
        enforce(tmp_path / "folder", Retention(age=1.0), NOW),
        forget(tmp_path / "folder"),
    ):
        assert trimmed == Trimmed(
            0, 0, 0, ("a.npz: a link, left alone", "b.db: a link, left alone")
        )
    assert mine.exists()
    assert times(base) == [1, 2]


def test_the_oldest_files_go_first(tmp_path):
    for k in range(5):
        npz(tmp_path / f"{k}.npz", NOW - k)
    assert enforce(tmp_path, Retention(examples=25), NOW).files == 3
    assert names(tmp_path) == ["0.npz", "1.npz"]


def test_one_file_beyond_the_limit_stays_and_is_said(tmp_path):
    npz(tmp_path / "a.npz", NOW, count=100)
    trimmed = enforce(tmp_path, Retention(examples=25), NOW)
    assert trimmed == Trimmed(
        problems=("the limits cannot be kept: one file alone is beyond them",)
    )
    assert names(tmp_path) == ["a.npz"]


def test_a_damaged_file_goes_by_its_age_and_size(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"x" * 200_000)
    os.utime(tmp_path / "bad.npz", (NOW - 50, NOW - 50))
    npz(tmp_path / "good.npz", NOW)
    assert enforce(tmp_path, Retention(bytes=150_000), NOW).files == 1
    assert names(tmp_path) == ["good.npz"]


def test_a_folder_that_is_not_there_is_a_problem(tmp_path):
    gone = tmp_path / "gone"
    problem = f"{gone}: No such file or directory"
    assert enforce(gone, Retention(age=1.0), NOW) == Trimmed(problems=(problem,))
    assert forget(gone) == Trimmed(problems=(problem,))


@pytest.fixture
def unwritable():
    """A folder that this process may not write, even when it is the superuser's."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    npz(folder / "a.npz", 1)
    notes(folder / "b.db", [1, 2])
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    yield folder
    if os.getuid() == 0:
        os.seteuid(0)
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("way", [lambda f: enforce(f, Retention(age=1.0), NOW), forget])
def test_a_read_only_folder_is_a_problem(unwritable, way):
    trimmed = way(unwritable)
    assert trimmed[:3] == (0, 0, 0)
    first, second = trimmed.problems
    assert first == "a.npz: Permission denied"
    assert second == "b.db: attempt to write a readonly database"


# SQLite


@pytest.mark.parametrize("mode", ["wal", "delete", "persist"])
@pytest.mark.parametrize("auto_vacuum", [0, 2])
@pytest.mark.parametrize("in_use", [False, True])
def test_rows_that_go_are_no_longer_in_the_files(tmp_path, mode, auto_vacuum, in_use):
    made = [NOW - k for k in range(200)]
    path = notes(tmp_path / "a.db", made, mode, auto_vacuum)
    assert (tmp_path / "a.db-journal").exists() == (mode == "persist")
    program = sqlite3.connect(path)
    if in_use:
        assert program.execute("SELECT count(*) FROM examples").fetchall() == [(200,)]
    assert found_on_disk(tmp_path, made) == made
    trimmed = enforce(tmp_path, Retention(age=149.5), NOW)
    program.close()
    kept = [at for at in made if at >= NOW - 149]
    assert trimmed.problems == ()
    assert (trimmed.examples, trimmed.files) == (50, 0)
    assert found_on_disk(tmp_path, made) == kept
    assert times(path) == sorted(kept)


@pytest.mark.parametrize("mode", ["wal", "delete", "persist"])
def test_all_that_is_forgotten_is_no_longer_in_the_files(tmp_path, mode):
    made = [NOW - k for k in range(200)]
    path = notes(tmp_path / "a.db", made, mode)
    program = sqlite3.connect(path, isolation_level=None)
    program.execute("PRAGMA secure_delete = OFF")
    program.execute("DELETE FROM examples WHERE id <= 90")  # left in free space by the program
    assert found_on_disk(tmp_path, made) != []
    npz(tmp_path / "b.npz", 1)
    trimmed = forget(tmp_path)
    assert (trimmed.examples, trimmed.files, trimmed.problems) == (120, 1, ())
    assert trimmed.bytes > 40_000
    assert found_on_disk(tmp_path, made) == []
    program.execute("INSERT INTO examples (at, note) VALUES (1, 'it goes on')")
    program.close()
    assert times(path) == [1]


@pytest.mark.parametrize("auto_vacuum", [0, 2])
def test_space_is_given_back(tmp_path, auto_vacuum):
    path = notes(tmp_path / "a.db", [NOW - k for k in range(2000)], auto_vacuum=auto_vacuum)
    before = bytes_in(tmp_path)
    trimmed = enforce(tmp_path, Retention(age=500.0), NOW)
    assert trimmed.examples == 1499
    assert trimmed.bytes == before - bytes_in(tmp_path)
    assert bytes_in(tmp_path) < before / 3
    assert len(times(path)) == 501


@pytest.mark.parametrize("auto_vacuum", [0, 2])
def test_a_file_is_kept_below_its_size(tmp_path, auto_vacuum):
    made = [NOW - k for k in range(2000)]
    path = notes(tmp_path / "a.db", made, auto_vacuum=auto_vacuum)
    assert bytes_in(tmp_path) > 800_000
    assert enforce(tmp_path, Retention(bytes=300_000), NOW).problems == ()
    assert bytes_in(tmp_path) <= 300_000
    kept = times(path)
    assert len(kept) > 500, "no more went than had to"
    assert kept == sorted(made)[-len(kept) :]
    assert enforce(tmp_path, Retention(bytes=300_000), NOW) == Trimmed()


def test_rows_go_by_their_time_and_not_by_their_order(tmp_path):
    path = notes(tmp_path / "a.db", [5, 3, 9, 1, 7])
    assert enforce(tmp_path, Retention(examples=2), 10.0).examples == 3
    assert times(path) == [7, 9]


def test_files_and_rows_go_in_one_order(tmp_path):
    path = notes(tmp_path / "a.db", [NOW - 30, NOW - 20, NOW - 5, NOW - 4])
    npz(tmp_path / "b.npz", NOW - 10)
    assert enforce(tmp_path, Retention(examples=13), NOW).examples == 1
    assert enforce(tmp_path, Retention(examples=3), NOW)[:2] == (11, 1)
    assert times(path) == [NOW - 5, NOW - 4]
    assert names(tmp_path) == ["a.db"]


def test_a_row_without_a_time_counts_as_the_oldest(tmp_path):
    path = notes(tmp_path / "a.db", [NOW - 5])
    db = sqlite3.connect(path)
    db.execute("INSERT INTO examples (at) VALUES (NULL), ('yesterday')")
    db.commit()
    db.close()
    assert enforce(tmp_path, Retention(age=100.0), NOW).examples == 2
    assert times(path) == [NOW - 5]


def test_rows_of_the_future_are_said(tmp_path):
    """Most often milliseconds: they would never be too old."""
    notes(tmp_path / "a.db", [NOW, NOW * 1000])
    trimmed = enforce(tmp_path, Retention(age=100.0), NOW)
    assert trimmed == Trimmed(problems=("a.db: 1 examples are dated in the future",))


def test_a_locked_database_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "BUSY_SECONDS", 0.1)
    path = notes(tmp_path / "a.db", [1, 2])
    npz(tmp_path / "b.npz", 1)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    trimmed = enforce(tmp_path, Retention(age=1.0), NOW)
    assert (trimmed.examples, trimmed.files) == (10, 1)
    assert trimmed.problems == ("a.db: database is locked",)
    assert forget(tmp_path).problems == ("a.db: database is locked",)
    db.close()
    assert times(path) == [1, 2]


def test_what_a_reader_holds_in_the_journal_goes_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_store, "BUSY_SECONDS", 0.1)
    notes(tmp_path / "a.db", [1, 2, NOW])
    reader = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM examples").fetchall()
    more_notes(tmp_path / "a.db", [3])
    trimmed = enforce(tmp_path, Retention(age=100.0), NOW)
    assert trimmed.examples == 3
    assert trimmed.problems == (
        "a.db: in use: what was deleted is in its journal until the next time",
    )
    assert found_on_disk(tmp_path, [3]) == [3]
    reader.execute("COMMIT")
    assert enforce(tmp_path, Retention(age=100.0), NOW).problems == ()
    assert found_on_disk(tmp_path, [1, 2, 3, NOW]) == [NOW]
    reader.close()


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("CREATE TABLE photos (at)", "no table 'examples'"),
        ("CREATE VIEW examples AS SELECT 1 AS at", "no table 'examples'"),
    ],
)
def test_a_database_of_somebody_else_is_left_alone(tmp_path, sql, why):
    db = sqlite3.connect(tmp_path / "a.db")
    db.execute(sql)
    db.close()
    before = (tmp_path / "a.db").read_bytes()
    assert enforce(tmp_path, Retention(age=1.0), NOW).problems == (f"a.db: {why}",)
    assert forget(tmp_path).problems == (f"a.db: {why}",)
    assert (tmp_path / "a.db").read_bytes() == before


def test_a_file_that_is_no_database_is_left_alone(tmp_path):
    (tmp_path / "a.db").write_bytes(b"thumbnails" * 100)
    assert enforce(tmp_path, Retention(age=1.0), NOW).problems == ("a.db: file is not a database",)
    assert forget(tmp_path).problems == ("a.db: file is not a database",)
    assert names(tmp_path) == ["a.db"]


def test_rows_without_times_are_not_guessed_at(tmp_path):
    db = sqlite3.connect(tmp_path / "a.db")
    db.execute("CREATE TABLE examples (x)")
    db.execute("INSERT INTO examples VALUES (1)")
    db.commit()
    db.close()
    (problem,) = enforce(tmp_path, Retention(examples=1), NOW).problems
    assert problem.startswith("a.db: no column 'at'")
    assert forget(tmp_path).examples == 1


# The summary


def test_the_summary_tells_what_there_is_and_what_would_go(tmp_path):
    npz(tmp_path / "a.npz", NOW - 500)
    store(tmp_path / "b.db", [(NOW - 50, 1, 2, 0), (NOW - 5, 1, 2, 0), (NOW - 500, 1, 2, 0)])
    (tmp_path / "c.csv").write_text("x.0,x.1,label\n1,2,0\n1,2,7")
    os.utime(tmp_path / "c.csv", (NOW, NOW))
    (tmp_path / "d.npz").write_bytes(b"not mine")
    os.utime(tmp_path / "d.npz", (NOW, NOW))
    summary = describe(tmp_path, retention=Retention(age=100.0), now=NOW)
    seen = [(f.name, f.examples, f.oldest, f.newest, bool(f.problem)) for f in summary.files]
    assert seen == [
        ("a.npz", 10, NOW - 500, NOW - 500, False),
        ("b.db", 3, NOW - 500, NOW - 5, False),
        ("c.csv", 2, NOW, NOW, False),
        ("d.npz", 0, None, None, True),
    ]
    assert summary.going is not None
    assert summary.going[:2] == (11, 1)
    assert len(names(tmp_path)) == 4, "nothing went"
    assert enforce(tmp_path, Retention(age=100.0), NOW)[:2] == (11, 1)
    text = summary.text()
    assert "15 examples" in text
    assert "d.npz: 8 bytes, cannot be read: File is not a zip file" in text
    assert "would delete now: 11 examples (whole files: 1)" in text


def test_the_summary_tells_what_fits_a_plan(tmp_path):
    (tmp_path / "c.csv").write_text("x.0,x.1,label\n1,2,0\n1,2,7\n")
    store(tmp_path / "d.db")
    append(tmp_path / "d.db", [(1, 1, 2, 0)])
    first, second = describe(tmp_path, INPUTS).files
    assert (first.usable, first.skipped) == (1, 1)
    assert first.reasons == ["c.csv example 1: 'label' is not a class from 0 to 2"]
    assert (second.usable, second.skipped) == (1, 0)
    assert "1 fit the plan, 1 do not" in first.text()


def test_the_summary_of_a_folder_that_is_not_there_says_so(tmp_path):
    summary = describe(tmp_path / "gone")
    assert summary.files == []
    assert "No such file or directory" in summary.text()


def test_times_that_no_calendar_has_are_shown_as_numbers(tmp_path):
    notes(tmp_path / "a.db", [1e300])
    assert "1e+300" in describe(tmp_path).text()
