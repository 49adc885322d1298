"""Schedules, ready-made and written out."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.duration import Duration
from schedules.schedule import READY_MADE, Schedule, ready_made
from schedules.window import Window
from wire.errors import WireError
from wire.strict import decode_toml

DAY = Window(start="09:00", end="17:00", zone="UTC")
NIGHT = Window(start="22:00", end="06:00", zone="UTC")


def schedule(*windows: Window) -> Schedule:
    return Schedule(round_deadline=Duration(3600), check_in=Duration(60), windows=windows)


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 5, 4, hour, minute, tzinfo=UTC)


def test_no_windows_means_always():
    assert schedule().open_at(at(3))
    assert schedule().seconds_to_opening(at(3)) == 0


def test_a_schedule_is_open_when_one_of_its_windows_is():
    both = schedule(DAY, NIGHT)
    assert [hour for hour in range(24) if not both.open_at(at(hour))] == [
        6,
        7,
        8,
        17,
        18,
        19,
        20,
        21,
    ]


def test_the_wait_is_for_the_window_that_opens_first():
    both = schedule(DAY, NIGHT)
    assert both.seconds_to_opening(at(8, 30)) == 1800
    assert both.seconds_to_opening(at(17)) == 5 * 3600
    assert both.seconds_to_opening(at(12)) == 0


@pytest.mark.parametrize("name", READY_MADE)
def test_ready_made_schedules_load(name):
    made = ready_made(name)
    assert made.round_deadline > made.check_in > 0


def test_nightly_is_open_at_night_by_the_devices_own_clock():
    nightly = ready_made("nightly")
    assert [hour for hour in range(24) if nightly.open_at(at(hour))] == [1, 2, 3, 4]


def test_hourly_and_continuous_are_always_open():
    for name in ("hourly", "continuous"):
        assert all(ready_made(name).open_at(at(hour)) for hour in range(24))


@pytest.mark.parametrize("name", ["weekly", "", "../nightly", "nightly.toml"])
def test_any_other_name_is_an_error_that_lists_the_ready_made(name):
    with pytest.raises(ValueError, match="ready-made: nightly, hourly, continuous"):
        ready_made(name)


@given(st.floats(min_value=0.05, max_value=7 * 86400))
def test_a_check_in_within_bounds_is_taken(seconds):
    Schedule(round_deadline=Duration(60), check_in=Duration(seconds))


@pytest.mark.parametrize("seconds", [0, 0.049, 7 * 86400 + 1, -1, float("nan"), float("inf")])
def test_a_check_in_out_of_bounds_is_refused(seconds):
    with pytest.raises(ValueError, match="from 50 ms to 7 days"):
        Schedule(round_deadline=Duration(60), check_in=Duration(seconds))


def test_a_schedule_is_read_from_toml():
    text = 'round_deadline = "2h"\ncheck_in = "20m"\n[[windows]]\nstart = "01:00"\nend = "05:00"'
    hooks = {Duration: Duration.parse}
    assert decode_toml(text, Schedule, hooks) == ready_made("nightly")
    with pytest.raises(WireError, match=r"line 2: check_in = 20: expected a duration"):
        decode_toml(text.replace('"20m"', "20"), Schedule, hooks)
