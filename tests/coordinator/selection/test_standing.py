"""When a device that keeps failing rests, and for how long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.selection import Standing, rests_until

STREAK = st.integers(0, 10**6)
WHEN = st.floats(0, 4e9)


def pause(streak):
    until = rests_until(Standing(failed=streak, streak=streak, failed_at=1000.0))
    return None if until is None else until - 1000.0


def test_bad_luck_twice_is_forgiven_then_the_pauses_double_up_to_a_day():
    assert [pause(n) for n in range(3)] == [None] * 3
    assert [pause(n) / 60 for n in range(3, 8)] == [10, 20, 40, 80, 160]
    assert [pause(n) / 3600 for n in (10, 11, 1000)] == [pytest.approx(21 + 1 / 3), 24, 24]


def test_one_success_ends_the_pauses_whatever_failed_before():
    assert rests_until(Standing(accepted=1, failed=50, streak=0, failed_at=1000.0)) is None


@given(STREAK, WHEN)
def test_one_more_failure_never_shortens_the_rest_and_none_is_over_a_day(streak, when):
    one, two = (rests_until(Standing(streak=n, failed_at=when)) for n in (streak, streak + 1))
    assert (two or 0) >= (one or 0)
    assert one is None or when < one <= when + 86400


@given(STREAK)
def test_a_failure_of_unknown_time_is_no_rest_without_end(streak):
    assert rests_until(Standing(streak=streak)) is None
