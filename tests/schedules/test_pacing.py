"""Check-in pacing: how wide, how soon."""

from hypothesis import given
from hypothesis import strategies as st

from schedules.pacing import CHECK_INS_PER_SECOND, RetryWindow, retry_window

SECONDS = st.floats(min_value=0, max_value=1e7)
INTERVAL = st.floats(min_value=0.05, max_value=7 * 86400)
POPULATION = st.integers(0, 10**9)
FRACTION = st.floats(min_value=0, max_value=1)


def test_a_small_population_comes_back_within_the_interval():
    assert retry_window(wait=300, interval=60, population=1000) == RetryWindow(300, 360)


def test_a_large_population_is_spread_out():
    assert retry_window(wait=300, interval=60, population=1_000_000) == RetryWindow(300, 20_300)


def test_nobody_comes_back_sooner_than_half_the_interval():
    assert retry_window(wait=0, interval=60, population=10) == RetryWindow(30, 90)


@given(SECONDS, INTERVAL, POPULATION)
def test_a_window_opens_no_sooner_than_asked_and_bears_its_population(wait, interval, population):
    window = retry_window(wait, interval, population)
    width = window.before - window.after
    slack = 1e-9 * window.before + 1e-9
    assert window.after >= wait
    assert width >= interval - slack
    assert 2 * population <= CHECK_INS_PER_SECOND * (width + slack)


@given(SECONDS, INTERVAL, POPULATION)
def test_more_devices_never_make_a_narrower_window(wait, interval, population):
    one, two = (retry_window(wait, interval, n) for n in (population, population * 2))
    assert two.after == one.after
    assert two.before >= one.before


@given(SECONDS, INTERVAL, POPULATION, FRACTION)
def test_the_moment_picked_lies_in_the_window(wait, interval, population, fraction):
    window = retry_window(wait, interval, population)
    assert window.after <= window.pick(fraction) <= window.before * (1 + 1e-12)
    assert (window.pick(0), window.pick(0.5)) == (
        window.after,
        window.after + (window.before - window.after) / 2,
    )
