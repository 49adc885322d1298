"""NASA's files: what is read of them, and what is said of those that are damaged."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from examples.turbofan import cmapss
from examples.turbofan.cmapss import FEATURES, NAMES, DataError, Flights
from tests.examples.turbofan import engines

NUMBERS = [float(n) for n in range(2, 26)]
"""In each column its place, counted from 0."""


def damaged(folder: Path, second_line: str) -> str:
    """What is said of a file whose second line is this one."""
    engines.write(folder, 2)
    path = folder / NAMES[2]
    first, _, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first + second_line + "".join(rest))
    with pytest.raises(DataError) as caught:
        cmapss.load(folder)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2: ")
    assert "\n" not in message
    return message


def test_engines_of_all_files_count_on_and_run_to_their_last_row(flights: Flights):
    assert flights.engines == 20
    ends = flights.left == 0
    assert flights.engine[ends].tolist() == list(range(20))
    assert (flights.cycle + flights.left == flights.lives[flights.engine]).all()
    assert flights.features.shape == (len(flights.cycle), 16)


def test_features_are_the_columns_of_the_report(tmp_path: Path):
    for name in NAMES:
        (tmp_path / name).write_text(engines.row(1, 1, NUMBERS))
    found = cmapss.load(tmp_path)
    expected = [2, 3, 6, 7, 8, 11, 12, 13, 15, 16, 17, 18, 19, 21, 24, 25]
    assert found.features.tolist() == [expected] * 4
    assert list(FEATURES.values()) == expected


def test_compressed_files_are_read_alike(tmp_path: Path, flights: Flights):
    engines.write(tmp_path, 5, compressed=True)
    found = cmapss.load(tmp_path)
    assert np.array_equal(found.features, flights.features)
    assert np.array_equal(found.left, flights.left)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_with_where_to_get_it(tmp_path: Path, name: str):
    engines.write(tmp_path, 2)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=rf"{name} is not there.*NASA's Prognostics Data") as caught:
        cmapss.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (engines.row(1, 2, NUMBERS[:-1]), "25 columns, not 26"),
        (engines.row(1, 2, [*NUMBERS, 1.0]), "27 columns, not 26"),
        (engines.row(1, 2, NUMBERS).replace("7.0000", "7.0x"), "'7.0x' is not a number"),
        (engines.row(1, 2, [*NUMBERS[:-1], float("nan")]), "'nan' is not a number"),
        (engines.row(1, 2, [*NUMBERS[:-1], float("inf")]), "'inf' is not a number"),
        (engines.row(1, 3, NUMBERS), "unit 1: cycle 3 after cycle 1"),
        (engines.row(1, 1, NUMBERS), "unit 1: cycle 1 after cycle 1"),
        (engines.row(3, 1, NUMBERS), "unit 3 after unit 1"),
        (engines.row(2, 2, NUMBERS), "unit 2: cycle 2 after cycle 1"),
        ("\x00" * 5000 + "\n", "1 columns, not 26"),
    ],
)
def test_a_damaged_line_is_named_with_what_is_wrong(tmp_path: Path, line: str, what: str):
    assert damaged(tmp_path, line).endswith(what)


def test_blank_lines_are_none(tmp_path: Path, flights: Flights):
    engines.write(tmp_path, 5)
    path = tmp_path / NAMES[0]
    path.write_text(path.read_text() + "\n \n")
    assert np.array_equal(cmapss.load(tmp_path).left, flights.left)


@pytest.mark.parametrize("cut", [5, -20])
def test_a_compressed_file_that_breaks_off_is_damaged(tmp_path: Path, cut: int):
    engines.write(tmp_path, 2, compressed=True)
    path = tmp_path / f"{NAMES[1]}.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        cmapss.load(tmp_path)


def test_what_is_not_compressed_is_damaged_if_it_is_called_so(tmp_path: Path):
    engines.write(tmp_path, 2)
    path = tmp_path / NAMES[1]
    path.rename(f"{path}.gz")
    with pytest.raises(DataError, match="cannot be read: Not a gzipped file"):
        cmapss.load(tmp_path)


@pytest.mark.parametrize("content", [b"", gzip.compress(b"")])
def test_an_empty_file_is_damaged(tmp_path: Path, content: bytes):
    engines.write(tmp_path, 2)
    (tmp_path / NAMES[3]).unlink()
    path = tmp_path / (f"{NAMES[3]}.gz" if content else NAMES[3])
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} is empty"):
        cmapss.load(tmp_path)
