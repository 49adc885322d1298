"""Rows as files: what is read back is what was written, empty cells where a row has no value."""

import csv
import sys
from pathlib import Path

import pytest

from fleet.simulation.tables import TableError, write_rows

ROWS: list[dict[str, float | int | str]] = [
    {"version": 0, "reason": "", "loss": 2},
    {"version": 1, "reason": "goal, met", "loss": 0.1 + 0.2, "late": 3},
]


def test_csv(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", ROWS)
    with (tmp_path / "a.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["version", "reason", "loss", "late"]
    assert first["late"] == ""
    assert (second["reason"], float(second["loss"])) == ("goal, met", 0.1 + 0.2)


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_rows(tmp_path / "a.parquet", ROWS)
    assert parquet.read_table(tmp_path / "a.parquet").to_pydict() == {
        "version": [0, 1],
        "reason": ["", "goal, met"],
        "loss": [2.0, 0.1 + 0.2],
        "late": [None, 3],
    }


def test_no_rows_are_a_table(tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet"):
        write_rows(tmp_path / name, [])
        assert (tmp_path / name).stat().st_size > 0


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"\.csv or \.parquet"):
        write_rows(tmp_path / "a.xlsx", ROWS)


def test_without_pyarrow_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TableError, match=r"pip install 'lamplighter\[simulation\]'"):
        write_rows(tmp_path / "a.parquet", ROWS)
