"""How fast a body must come."""

import pytest

from coordinator.http.pace import (
    GRACE_SECONDS,
    MESSAGE_SECONDS,
    SILENCE_SECONDS,
    WINDOW_SECONDS,
    Pace,
)


def given_up_after(rate: float, every: float, hours: float = 1.0) -> float | None:
    """When a body that brings `rate` bytes a second, in pieces `every` so many, is given up."""
    pace, now = Pace(0.0), 0.0
    while now < hours * 3600:
        now += every
        if pace.too_slow(round(rate * every), now):
            return now
    return None


@pytest.mark.parametrize("every", [0.01, 1.0, 29.0])
def test_a_thousand_bytes_a_second_pass(every: float):
    assert given_up_after(1000.0, every) is None


@pytest.mark.parametrize("every", [1.0, 10.0, 29.0])
def test_a_drip_is_given_up_within_two_windows(every: float):
    after = given_up_after(5.0, every)
    assert after is not None
    assert GRACE_SECONDS < after <= GRACE_SECONDS + WINDOW_SECONDS + every


def test_a_slow_start_is_forgiven():
    pace = Pace(0.0)
    assert not pace.too_slow(1, GRACE_SECONDS - 1)
    later = [GRACE_SECONDS + n for n in range(1, 61)]
    assert not any(pace.too_slow(200, now) for now in later)


def test_a_fast_start_does_not_pay_for_a_drip():
    pace = Pace(0.0)
    assert not pace.too_slow(10_000_000, 1.0)
    end = GRACE_SECONDS + WINDOW_SECONDS
    assert pace.too_slow(1, end)


def test_a_pause_in_the_second_hour_is_found_too():
    pace = Pace(0.0)
    for now in range(1, 3600):
        assert not pace.too_slow(1000, float(now))
    slow = [now for now in range(3600, 3800, 20) if pace.too_slow(1, float(now))]
    assert slow
    assert slow[0] <= 3600 + 2 * WINDOW_SECONDS


def test_a_message_has_half_a_minute_in_all():
    pace = Pace(100.0, MESSAGE_SECONDS)
    assert pace.patience(100.0) == pytest.approx(MESSAGE_SECONDS)
    assert pace.patience(125.0) == pytest.approx(5.0)
    assert pace.patience(200.0) == 0.0
    assert not pace.too_slow(1, 129.0)
    assert pace.too_slow(1, 131.0)


def test_silence_is_bounded():
    assert Pace(0.0).patience(10_000.0) == SILENCE_SECONDS
