"""Waits between retries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.backoff import PERMANENT, TRANSIENT, Backoff

FRACTION = st.floats(min_value=0, max_value=1)
FAILURES = st.integers(1, 10**6)
KINDS = st.sampled_from([TRANSIENT, PERMANENT, Backoff(0.01, 1.0)])


def test_the_longest_wait_doubles_up_to_the_limit():
    waits = [Backoff(first=2, limit=60).delay(n, 1.0) for n in range(1, 8)]
    assert waits == [2, 4, 8, 16, 32, 60, 60]


def test_half_of_the_longest_wait_is_always_waited():
    assert [Backoff(first=2, limit=60).delay(n, 0.0) for n in range(1, 8)] == [
        1, 2, 4, 8, 16, 30, 30,
    ]  # fmt: skip


@given(KINDS, FAILURES, FRACTION)
def test_a_wait_is_never_over_the_limit_nor_under_half_of_the_first(kind, failures, fraction):
    assert kind.first / 2 <= kind.delay(failures, fraction) <= kind.limit


@given(KINDS, FAILURES, FRACTION)
def test_one_more_failure_never_shortens_the_wait(kind, failures, fraction):
    assert kind.delay(failures + 1, fraction) >= kind.delay(failures, fraction)


@given(FAILURES)
def test_the_draw_spreads_a_fleet_over_half_of_the_wait(failures):
    waits = [TRANSIENT.delay(failures, n / 10) for n in range(11)]
    assert waits == sorted(set(waits))
    assert waits[-1] == pytest.approx(2 * waits[0])
