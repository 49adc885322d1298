"""The machine's own clocks."""

from datetime import UTC, datetime

import pytest

from schedules.clock import SystemClock, same_day


def test_the_wall_clock_knows_its_time_zone():
    assert SystemClock().now().utcoffset() is not None


def test_the_monotonic_clock_never_goes_back():
    clock = SystemClock()
    times = [clock.monotonic() for _ in range(100)]
    assert times == sorted(times)


NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("date", "same"),
    [
        ("Wed, 04 Mar 2026 12:00:00 GMT", True),
        ("Thu, 05 Mar 2026 11:59:59 GMT", True),
        ("Thu, 05 Mar 2026 12:00:01 GMT", False),
        ("Tue, 03 Mar 2026 11:59:59 GMT", False),
        ("Wed, 04 Mar 2020 12:00:00 GMT", False),
        ("", False),
        ("yesterday", False),
        ("Wed, 04 Mar 2026 12:00:00 -0000", False),  # without a zone it says nothing
        ("Wed, 99 Mar 99999999999 12:00:00 GMT", False),
    ],
)
def test_two_clocks_agree_or_do_not(date, same):
    assert same_day(date, NOON) is same
