"""Durations, read and written for people."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.duration import Duration, human


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("15m", 900),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("1d2h3m4s5ms", 93_784.005),
        ("0s", 0),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "s",
        "-5s",
        "5 s",
        "1h 30m",
        "5S",
        "5sec",
        "1,5h",
        "1.h",
        ".5h",
        "1.5.2h",
        "1e3s",
        "nans",
        "infs",
        "1h30",
        "\N{ARABIC-INDIC DIGIT FIVE}s",
        "9" * 400 + "d",
        5,
        5.0,
        None,
        True,
        ["5s"],
    ],
    ids=lambda text: repr(text)[:20],
)
def test_anything_else_is_an_error_that_says_what_is_allowed(text):
    with pytest.raises(ValueError, match="expected a duration such as '30s', '15m', '1h30m' or"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.35, "350 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1, "1 s"),
        (1.5, "1.5 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3599.6, "1 h"),
        (3900, "1 h 5 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d"),
        (100_000, "1 d 3 h"),
        (-90, "-1 min 30 s"),
    ],
)
def test_a_duration_for_people_has_two_units_at_most(seconds, text):
    assert human(seconds) == text
    assert str(Duration(seconds)) == text
    assert f"{Duration(seconds)}" == text


@given(st.floats(min_value=0.0005, max_value=1e9))
def test_a_duration_for_people_is_close_and_can_be_read_back(seconds):
    text = human(seconds).replace(" min", "m").replace(" ", "")
    assert Duration.parse(text) == pytest.approx(seconds, rel=0.06, abs=0.0005)


@given(st.integers(0, 59), st.integers(0, 23), st.integers(0, 59), st.integers(0, 30))
def test_what_people_write_is_the_sum_of_its_parts(seconds, hours, minutes, days):
    text = f"{days}d{hours}h{minutes}m{seconds}s"
    assert Duration.parse(text) == ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    assert math.isfinite(Duration.parse(text))
