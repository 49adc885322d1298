"""The parts that need no database: the shared SQL as PostgreSQL wants it, the clock."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.store.postgres.clock import DatabaseClock
from coordinator.store.postgres.dialect import schema, statement
from coordinator.store.sql import Query


@pytest.mark.parametrize(
    ("query", "text", "values"),
    [
        (Query("SELECT $1", (1,)), "SELECT $1::bigint", [1]),
        (Query("SELECT $1, $2", ("a", 1.5)), "SELECT $1::text, $2::double precision", ["a", 1.5]),
        (
            Query("VALUES ($1, $2, $3)", (b"", None, 2)),
            "VALUES ($1::bytea, NULL, $2::bigint)",
            [b"", 2],
        ),
        (Query("$1 $2 $1", (None, 1)), "NULL $1::bigint NULL", [1]),
        (Query("'$1' \"$1\" $1 -- $1", ("a",)), "'$1' \"$1\" $1::text -- $1", ["a"]),
        (Query("'it''s $1' = $1", ("a",)), "'it''s $1' = $1::text", ["a"]),
        (Query("$10 $1", tuple(range(10))), "$10::bigint $1::bigint", list(range(10))),
        (Query("$1", (True,)), "$1::bigint", [True]),
    ],
)
def test_a_value_takes_its_type_along(query: Query, text: str, values: list[object]):
    assert statement(query) == (text, values)


def test_what_is_no_value_is_refused():
    with pytest.raises(TypeError, match="datetime"):
        statement(Query("$1", (datetime(2026, 1, 1),)))  # type: ignore[arg-type]


def test_the_schema_is_translated():
    ours = schema(
        "CREATE TABLE t ( -- INTEGER; STRICT\n  a INTEGER, b REAL, c BLOB, d TEXT\n) STRICT;"
    )
    words = " ".join(ours.split())
    assert words == "CREATE TABLE t ( a BIGINT, b DOUBLE PRECISION, c BYTEA, d TEXT );"


class Ticking:
    """A monotonic clock that is set."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        raise AssertionError("this machine's wall clock is nobody's business")


def test_the_quickest_trip_tells_the_time():
    ticking = Ticking()
    clock = DatabaseClock(ticking)
    clock.take([(990.0, 5.0, 1000.0), (999.0, 7000.0, 999.2), (999.0, 9.0, 1000.0)])
    assert clock.now() == pytest.approx(7000.9)
    ticking.time += 50
    assert clock.now() == pytest.approx(7050.9)


def test_a_clock_that_was_ahead_goes_slower_until_it_is_right():
    ticking = Ticking()
    clock = DatabaseClock(ticking)
    clock.take([(1000.0, 5000.0, 1000.0)])
    clock.take([(1000.0, 4990.0, 1000.0)])
    assert clock.now() == 5000.0
    ticking.time += 10
    assert clock.now() == 5005.0
    ticking.time += 10
    assert clock.now() == 5010.0
    ticking.time += 10
    assert clock.now() == 5020.0


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(-1e6, 1e6), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_it_goes_forward_whatever_the_database_says(steps):
    ticking = Ticking()
    clock = DatabaseClock(ticking)
    clock.take([(1000.0, 1e9, 1000.0)])
    before = clock.now()
    for passed, jump, measured in steps:
        ticking.time += passed
        if measured:
            at = ticking.time
            clock.take([(at - 0.01, 1e9 + jump, at)])
        now = clock.now()
        assert now >= before
        before = now
