"""The day's budget, over days, midnights and clocks that jump."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.budget import (
    CODES,
    Spent,
    add_traffic,
    add_training,
    judge,
    today,
    traffic_left,
    training_left,
)
from edge_agent.config import parse

BERLIN = ZoneInfo("Europe/Berlin")
BUDGET = parse('[budget]\ntraining = "2h"\ntraffic = "10 MB"\n').budget
FREE = parse("").budget
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=BERLIN)
DAY = timedelta(days=1)


def spent(at=NOON, training=3600.0, traffic=0):
    return add_traffic(add_training(today(Spent(), at), training, at), traffic, at)


def test_a_new_device_has_spent_nothing():
    found = today(Spent(), NOON)
    assert (found.day, found.training, found.traffic) == ("2026-03-04", 0.0, 0)
    assert training_left(found, BUDGET) == 7200.0
    assert traffic_left(found, BUDGET) == 10_000_000


def test_costs_add_up():
    found = add_training(spent(training=600, traffic=5), 120, NOON)
    found = add_traffic(found, 7, NOON)
    assert (found.training, found.traffic) == (720.0, 12)
    assert training_left(found, BUDGET) == 6480.0


def test_each_budget_has_its_reason():
    fine = judge(spent(training=720, traffic=2_000_000), BUDGET)
    assert [s.code for s in fine] == ["ok", "ok"]
    assert [s.observed for s in fine] == ["12 min of 2 h used today", "2 MB of 10 MB used today"]
    gone = judge(spent(training=7200, traffic=10_000_000), BUDGET)
    assert [(s.name, s.code, s.ok) for s in gone] == [
        ("training_budget", "minutes_spent", False),
        ("traffic_budget", "bytes_spent", False),
    ]
    assert {s.name: {s.code} for s in gone} == {name: set(codes) for name, codes in CODES.items()}


def test_without_a_limit_all_is_fine():
    found = spent(training=80_000, traffic=10**12)
    assert all(s.ok for s in judge(found, FREE))
    assert training_left(found, FREE) is None
    assert traffic_left(found, FREE) is None


def test_what_was_spent_beyond_the_limit_leaves_nothing():
    found = spent(training=9000, traffic=10**9)
    assert training_left(found, BUDGET) == 0.0
    assert traffic_left(found, BUDGET) == 0


def test_a_running_training_sees_its_own_end_come():
    before = spent(training=7000)
    assert training_left(add_training(before, 150, NOON), BUDGET) == 50.0
    assert training_left(add_training(before, 200, NOON), BUDGET) == 0.0


def test_the_next_day_has_a_new_budget():
    found = today(spent(training=7200, traffic=10**7), NOON + DAY)
    assert [s.ok for s in judge(found, BUDGET)] == [True, True]


def test_a_training_over_midnight_is_of_both_days():
    late = datetime(2026, 3, 4, 22, 0, tzinfo=BERLIN)
    found = add_training(spent(late), 3 * 3600, late + timedelta(hours=3))
    assert (found.day, found.training) == ("2026-03-05", 3600.0)


def test_midnight_is_that_of_the_day_when_clocks_change():
    # In the night to 29 March 2026 Berlin goes from 2:00 to 3:00: midnight is 3 h before 4:00.
    evening = datetime(2026, 3, 28, 22, 0, tzinfo=BERLIN)
    found = add_training(spent(evening), 5 * 3600, datetime(2026, 3, 29, 4, 0, tzinfo=BERLIN))
    assert found.training == 3 * 3600


# Clocks that jump


def test_a_clock_that_goes_back_an_hour_before_midnight_grants_nothing():
    midnight = datetime(2026, 3, 5, 0, 10, tzinfo=BERLIN)
    found = today(spent(midnight, training=7200), midnight - timedelta(hours=1))
    assert not judge(found, BUDGET)[0].ok
    assert not judge(today(found, midnight), BUDGET)[0].ok


def test_a_device_without_a_clock_finds_no_fresh_budget_on_its_way_back():
    found = spent(training=7200)
    for boot in (datetime(1970, 1, 1, 1), datetime(2023, 5, 3), datetime(2023, 5, 3, 2)):
        found = today(found, boot.astimezone(BERLIN))
        assert not judge(found, BUDGET)[0].ok
    found = add_training(found, 60, datetime(2023, 5, 3, 3, tzinfo=BERLIN))
    assert (found.day, found.training) == ("2026-03-04", 7260.0)
    assert not judge(today(found, NOON), BUDGET)[0].ok
    assert judge(today(found, NOON + DAY), BUDGET)[0].ok


def test_a_clock_that_was_ahead_by_years_costs_one_day_at_most():
    ahead = add_training(Spent(), 7200, datetime(2036, 1, 1, 12, tzinfo=BERLIN))
    found = today(ahead, NOON)
    assert not judge(found, BUDGET)[0].ok
    assert judge(today(found, NOON + DAY), BUDGET)[0].ok


@pytest.mark.parametrize("damage", ["", "yesterday", "9999-99-99"])
def test_a_damaged_day_does_no_harm(damage):
    found = today(Spent(day=damage, seen=damage, training=1.0), NOON)
    assert found.seen == "2026-03-04"
    assert add_training(found, 60, NOON + DAY).training >= 0


@given(st.lists(st.integers(-72, 72), max_size=12))
def test_no_day_is_granted_twice_however_the_clock_jumps(jumps):
    """Unless a midnight passed while the clock was behind: that is a new day."""
    found, granted, moment = today(Spent(), NOON), {"2026-03-04"}, NOON
    for hours in jumps:
        before, moment = moment, moment + timedelta(hours=hours)
        after = today(found, moment)
        if after.day != found.day:
            if after.day < found.day:
                assert (moment.date() - before.date()).days == 1
                granted = set()
            assert after.day not in granted
            granted.add(after.day)
        found = after
