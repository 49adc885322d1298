"""The machine's own clocks."""

import math
from datetime import UTC, datetime

import pytest

from schedules.clock import SystemClock, skew


def test_the_wall_clock_knows_its_time_zone():
    assert SystemClock().now().utcoffset() is not None


def test_the_monotonic_clock_never_goes_back():
    clock = SystemClock()
    times = [clock.monotonic() for _ in range(100)]
    assert times == sorted(times)


NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("date", "seconds"),
    [
        ("Wed, 04 Mar 2026 12:00:00 GMT", 0.0),
        ("Wed, 04 Mar 2026 12:01:00 GMT", 60.0),
        ("Wed, 04 Mar 2026 11:59:00 GMT", 60.0),
        ("Wed, 04 Mar 2026 13:00:00 +0100", 0.0),
        ("", math.inf),
        ("yesterday", math.inf),
        ("Wed, 04 Mar 2026 12:00:00 -0000", math.inf),  # without a zone it says nothing
        ("Wed, 99 Mar 99999999999 12:00:00 GMT", math.inf),
    ],
)
def test_how_far_two_clocks_are_apart(date, seconds):
    assert skew(date, NOON) == seconds
