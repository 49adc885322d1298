"""The machine's own clocks."""

from schedules.clock import SystemClock


def test_the_wall_clock_knows_its_time_zone():
    assert SystemClock().now().utcoffset() is not None


def test_the_monotonic_clock_never_goes_back():
    clock = SystemClock()
    times = [clock.monotonic() for _ in range(100)]
    assert times == sorted(times)
