"""Training windows: nights, days, zones and the two odd days of the year."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schedules.window import DAYS, Window

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = [
    "local",
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "Australia/Lord_Howe",  # its clocks change by half an hour
    "Africa/Cairo",  # its clocks change at midnight
    "Asia/Kathmandu",
]

TIMES = st.times().map(lambda time: f"{time:%H:%M}")
WINDOWS = st.builds(
    Window,
    start=TIMES,
    end=TIMES,
    days=st.sets(st.sampled_from(DAYS), min_size=1).map(lambda s: tuple(d for d in DAYS if d in s)),
    zone=st.sampled_from(ZONES),
)
CLOCK_CHANGES = [
    datetime(2011, 11, 6, 2, 31, tzinfo=UTC).astimezone(ZoneInfo("America/St_Johns")),
    datetime(2026, 3, 29, 1, tzinfo=UTC).astimezone(BERLIN),
    datetime(2026, 10, 25, 1, tzinfo=UTC).astimezone(BERLIN),
    datetime(2026, 4, 4, 15, tzinfo=UTC).astimezone(ZoneInfo("Australia/Lord_Howe")),
    datetime(2026, 4, 23, 22, tzinfo=UTC).astimezone(ZoneInfo("Africa/Cairo")),
    datetime(2026, 10, 29, 21, tzinfo=UTC).astimezone(ZoneInfo("Africa/Cairo")),
]
MOMENTS = st.datetimes(
    datetime(2011, 1, 1), datetime(2035, 1, 1), timezones=st.sampled_from(ZONES[1:]).map(ZoneInfo)
).map(lambda moment: moment.replace(second=0, microsecond=0)) | st.builds(
    lambda change, minutes: (change.astimezone(UTC) + timedelta(minutes=minutes)).astimezone(
        change.tzinfo
    ),
    st.sampled_from(CLOCK_CHANGES),
    st.integers(-2000, 2000),
)
"""Whole minutes, many of them near a clock change."""


def berlin(text: str, fold: int = 0) -> datetime:
    """A wall clock reading in Berlin; `fold` 1 is the second of two."""
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


def test_a_window_opens_at_its_start_and_is_closed_at_its_end():
    window = Window(start="09:00", end="17:00")
    assert not window.contains(berlin("2026-05-04 08:59:59"))
    assert window.contains(berlin("2026-05-04 09:00"))
    assert window.contains(berlin("2026-05-04 16:59:59"))
    assert not window.contains(berlin("2026-05-04 17:00"))


def test_a_window_may_go_past_midnight():
    night = Window(start="22:00", end="06:00")
    assert night.contains(berlin("2026-05-04 22:00"))
    assert night.contains(berlin("2026-05-05 05:59"))
    assert not night.contains(berlin("2026-05-05 06:00"))
    assert night.closes(berlin("2026-05-04 23:00")) == berlin("2026-05-05 06:00")
    assert night.opens(berlin("2026-05-05 06:00")) == berlin("2026-05-05 22:00")


def test_a_window_belongs_to_the_day_it_starts_on():
    friday_night = Window(start="22:00", end="06:00", days=("fri",))
    assert friday_night.contains(berlin("2026-05-08 23:00"))  # a Friday
    assert friday_night.contains(berlin("2026-05-09 05:00"))
    assert not friday_night.contains(berlin("2026-05-08 05:00"))
    assert not friday_night.contains(berlin("2026-05-09 23:00"))
    assert friday_night.opens(berlin("2026-05-08 22:00")) == berlin("2026-05-15 22:00")


def test_equal_start_and_end_mean_the_whole_day():
    for window in (Window(start="00:00", end="00:00"), Window(start="13:30", end="13:30")):
        for hour in range(24):
            assert window.contains(berlin(f"2026-05-04 {hour:02}:29"))
    sunday = Window(start="00:00", end="00:00", days=("sun",))
    assert sunday.contains(berlin("2026-05-10 00:00"))
    assert sunday.contains(berlin("2026-05-10 23:59"))
    assert not sunday.contains(berlin("2026-05-11 00:00"))
    assert not sunday.contains(berlin("2026-05-09 23:59"))


def test_local_is_the_zone_of_the_time_asked_about():
    night = Window(start="01:00", end="05:00")
    moment = datetime(2026, 5, 4, 1, 30, tzinfo=UTC)
    assert night.contains(moment)
    assert not night.contains(moment.astimezone(timezone(timedelta(hours=9))))


def test_a_named_zone_holds_whatever_zone_the_time_is_in():
    night = Window(start="01:00", end="05:00", zone="Europe/Berlin")
    for zone in (UTC, ZoneInfo("Asia/Tokyo"), timezone(timedelta(hours=-9))):
        assert night.contains(berlin("2026-05-04 01:30").astimezone(zone))
        assert not night.contains(berlin("2026-05-04 05:30").astimezone(zone))


def test_a_window_is_an_hour_shorter_when_clocks_go_forward():
    night = Window(start="01:00", end="05:00")
    opened = night.opens(berlin("2026-03-28 12:00")).astimezone(BERLIN)
    assert opened == berlin("2026-03-29 01:00")
    assert night.closes(opened) - opened == timedelta(hours=3)


def test_a_window_is_an_hour_longer_when_clocks_go_back():
    night = Window(start="01:00", end="05:00")
    opened = night.opens(berlin("2026-10-24 12:00")).astimezone(BERLIN)
    assert night.closes(opened) - opened == timedelta(hours=5)
    assert night.contains(berlin("2026-10-25 02:30", fold=0))
    assert night.contains(berlin("2026-10-25 02:30", fold=1))


def test_a_start_that_the_clock_skips_is_the_hour_after():
    window = Window(start="02:30", end="06:00")
    assert window.opens(berlin("2026-03-29 00:00")) == berlin("2026-03-29 03:30")


def test_a_window_that_the_clock_skips_does_not_open_that_day():
    window = Window(start="02:30", end="03:15")
    assert window.opens(berlin("2026-03-29 00:00")) == berlin("2026-03-30 02:30")
    sundays = Window(start="02:30", end="03:15", days=("sun",))
    assert sundays.opens(berlin("2026-03-23 00:00")) == berlin("2026-04-05 02:30")


def test_a_window_in_the_hour_that_comes_twice_opens_the_first_time():
    window = Window(start="02:15", end="02:45")
    assert window.contains(berlin("2026-10-25 02:30", fold=0))
    assert not window.contains(berlin("2026-10-25 02:30", fold=1))


@given(WINDOWS, MOMENTS)
def test_a_window_that_opens_is_open_then_and_was_not_about_to_sooner(window, now):
    opened = window.opens(now)
    assert opened > now
    assert window.contains(opened.astimezone(now.tzinfo))
    assert opened - now <= timedelta(days=15)


@given(WINDOWS, MOMENTS)
def test_a_window_is_closed_until_it_opens(window, now):
    if window.contains(now):
        return
    wait = window.opens(now) - now
    for part in (0.25, 0.5, 0.99):
        assert not window.contains((now.astimezone(UTC) + wait * part).astimezone(now.tzinfo))


@given(WINDOWS, MOMENTS)
@example(Window(start="23:59", end="23:59"), berlin("2026-05-04 23:58"))
def test_a_window_stays_open_until_it_closes(window, now):
    closes = window.closes(now)
    assert window.contains(now) == (closes is not None)
    if closes is None:
        return
    rest = closes - now
    # A day of 25 hours, and a window of a whole day.
    assert timedelta(0) < rest <= timedelta(hours=49)
    for part in (0.25, 0.5, 0.99):
        assert window.contains((now.astimezone(UTC) + rest * part).astimezone(now.tzinfo))


@given(WINDOWS, MOMENTS)
def test_the_answer_does_not_depend_on_the_zone_of_the_question(window, now):
    if window.zone != "local":
        assert window.closes(now) == window.closes(now.astimezone(UTC))
        assert window.opens(now) == window.opens(now.astimezone(UTC))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"start": "24:00"}, "start = '24:00': expected a time of day such as '01:30'"),
        ({"start": "1:30"}, "start = '1:30': expected a time of day"),
        ({"end": "05:60"}, "end = '05:60': expected a time of day"),
        ({"end": "05:00:00"}, "end = '05:00:00': expected a time of day"),
        ({"end": "05:00\n"}, "expected a time of day"),
        ({"end": "0\N{ARABIC-INDIC DIGIT ONE}:00"}, "expected a time of day"),
        ({"days": ()}, "name some of mon, tue"),
        ({"zone": "Mars/Olympus"}, "zone = 'Mars/Olympus': expected 'local' or a name such as"),
        ({"zone": ""}, "expected 'local' or a name such as 'Europe/Berlin'"),
        ({"zone": "Europe"}, "expected 'local' or a name such as 'Europe/Berlin'"),
        ({"zone": "../../etc/passwd"}, "expected 'local' or a name such as 'Europe/Berlin'"),
        ({"zone": "/etc/passwd"}, "expected 'local' or a name such as 'Europe/Berlin'"),
        ({"zone": "zone.tab"}, "expected 'local' or a name such as 'Europe/Berlin'"),
        ({"zone": "a\0b"}, "expected 'local' or a name such as 'Europe/Berlin'"),
        ({"zone": "x" * 5000}, "expected 'local' or a name such as 'Europe/Berlin'"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else "",
)
def test_a_bad_window_is_an_error_that_says_what_is_allowed(fields, error):
    with pytest.raises(ValueError, match=r"expected|name some of") as caught:
        Window(**({"start": "01:00", "end": "05:00"} | fields))
    assert error in str(caught.value)


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="now must be aware of its time zone"):
        Window(start="01:00", end="05:00").contains(datetime(2026, 5, 4))
