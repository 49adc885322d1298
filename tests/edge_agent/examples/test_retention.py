"""What goes: the decision alone."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.examples.retention import Held, Piece, Retention, going


def files(*made: float, examples=10, size=1000) -> list[Piece]:
    return [Piece(at, f"{at}.npz", examples, size) for at in sorted(made)]


def rows(*made: float, size=10.0) -> list[Piece]:
    return [Piece(at, "a.db", 1, size, row) for row, at in enumerate(sorted(made))]


def gone(pieces, retention, now=100.0) -> list[float]:
    held = Held(sum(p.examples for p in pieces), sum(p.bytes for p in pieces))
    return [piece.made for piece in going(pieces, held, retention, now)]


def test_without_limits_all_is_kept():
    assert gone(files(1, 2, 3), Retention()) == []


def test_what_is_older_than_the_limit_goes_and_nothing_else():
    assert gone(files(39, 40, 41), Retention(age=60.0)) == [39]
    assert gone(rows(39, 40, 41), Retention(age=60.0)) == [39]


def test_age_takes_all_of_it():
    assert gone(files(1, 2), Retention(age=60.0)) == [1, 2]


def test_the_oldest_go_until_few_enough_are_left():
    assert gone(rows(1, 2, 3, 4, 5), Retention(examples=3)) == [1, 2]
    assert gone(files(1, 2, 3), Retention(examples=25)) == [1]
    assert gone(files(1, 2, 3), Retention(examples=30)) == []


def test_the_oldest_go_until_they_are_small_enough():
    assert gone(files(1, 2, 3, size=60_000), Retention(bytes=130_000)) == [1]
    assert gone(rows(*range(20), size=10_000.0), Retention(bytes=150_000)) == [0, 1, 2, 3, 4]


def test_files_and_rows_go_in_one_order():
    pieces = sorted([*files(3, examples=2), *rows(1, 2, 4, 5)])
    assert gone(pieces, Retention(examples=2)) == [1, 2, 3]


def test_a_file_that_is_all_there_is_stays_within_its_age():
    """To take it would leave nothing to learn from."""
    assert gone(files(50), Retention(examples=3, age=60.0)) == []
    assert gone(files(30), Retention(examples=3, age=60.0)) == [30]
    assert gone(files(1, 50), Retention(examples=3)) == [1]


limits = st.builds(
    Retention,
    age=st.none() | st.floats(1, 100),
    examples=st.none() | st.integers(1, 50),
    bytes=st.none() | st.integers(100_000, 400_000),
)
some_pieces = st.lists(
    st.builds(
        Piece,
        made=st.floats(0, 120),
        source=st.just("a"),
        examples=st.integers(0, 9),
        bytes=st.integers(0, 90_000),
        row=st.none() | st.integers(0, 9),
    ),
    max_size=20,
).map(lambda pieces: sorted(pieces, key=lambda p: (p.made, -1 if p.row is None else p.row)))


@given(pieces=some_pieces, retention=limits)
def test_what_is_left_is_within_the_limits_and_no_more_goes_than_must(pieces, retention):
    held = Held(sum(p.examples for p in pieces), sum(p.bytes for p in pieces))
    count = len(list(going(pieces, held, retention, 100.0)))
    kept = pieces[count:]
    left = Held(sum(p.examples for p in kept), sum(p.bytes for p in kept))
    assert not left.beyond(retention) or (kept[0].row is None and left.bytes <= kept[0].bytes)
    assert retention.age is None or all(p.made >= 100 - retention.age for p in kept)
    if count:
        last = pieces[count - 1]
        before = Held(left.examples + last.examples, left.bytes + last.bytes)
        too_old = retention.age is not None and last.made < 100 - retention.age
        assert too_old or before.beyond(retention)


@pytest.mark.parametrize("module", ["edge_agent.examples", "edge_agent.examples.retention"])
def test_the_agent_may_name_the_limits_at_no_cost(module):
    code = f"import sys, {module}; print('numpy' in sys.modules, 'sqlite3' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout == "False False\n"
