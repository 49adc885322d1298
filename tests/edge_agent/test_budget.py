"""The budgets of days and months, over midnights and clocks that jump."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.budget import (
    CODES,
    Spent,
    Use,
    add_traffic,
    add_training,
    allowance,
    judge,
    today,
    training_left,
    uses,
)
from edge_agent.config import parse
from edge_agent.errors import ConfigError
from edge_agent.signals.signal import Signal
from edge_agent.traffic import Allowance, Traffic

BERLIN = ZoneInfo("Europe/Berlin")
BUDGET = parse('[budget]\ntraining = "2h"\ntraffic = "10 MB"\n').budget
FREE = parse("").budget
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=BERLIN)
DAY = timedelta(days=1)


def spent(at=NOON, training=3600.0, traffic=0):
    moved = Traffic(traffic // 2, traffic - traffic // 2)
    return add_traffic(add_training(today(Spent(), at), training, at), moved, at)


def test_a_new_device_has_spent_nothing():
    found = today(Spent(), NOON)
    assert (found.day, found.training, found.traffic) == ("2026-03-04", 0.0, 0)
    assert training_left(found, BUDGET) == 7200.0
    assert allowance(found, BUDGET) == Allowance(both=10_000_000)


def test_costs_add_up():
    found = add_training(spent(training=600, traffic=5), 120, NOON)
    found = add_traffic(found, Traffic(3, 4), NOON)
    assert found.training == 720.0
    assert (found.traffic, found.upload, found.download) == (12, 5, 7)
    assert (found.month.traffic, found.month.upload, found.month.download) == (12, 5, 7)
    assert training_left(found, BUDGET) == 6480.0


def test_each_budget_has_its_reason():
    fine = judge(spent(training=720, traffic=2_000_000), BUDGET, NOON)
    assert [s.code for s in fine] == ["ok", "ok"]
    assert [s.observed for s in fine] == [
        "12 min of 2 h used today",
        "traffic 2 MB of 10 MB used today",
    ]
    gone = judge(spent(training=7200, traffic=10_000_000), BUDGET, NOON)
    assert gone == (
        Signal.no("training_budget", "minutes_spent", "2 h of 2 h used today, renewed at midnight"),
        Signal.no(
            "traffic_budget",
            "bytes_spent",
            "traffic 10 MB of 10 MB used today, renewed at midnight",
        ),
    )
    assert all(s.code in CODES[s.name] for s in gone)


WAYS = {
    "traffic": ("2 MB", "bytes_spent", "traffic 2 MB of 2 MB used today, renewed at midnight"),
    "upload": ("1 MB", "bytes_spent", "upload 1 MB of 1 MB used today, renewed at midnight"),
    "download": ("1 MB", "bytes_spent", "download 1 MB of 1 MB used today, renewed at midnight"),
    "month.traffic": (
        *("2 MB", "month_bytes_spent"),
        "traffic 2 MB of 2 MB used this month, renewed on 2026-04-01",
    ),
    "month.upload": (
        *("1 MB", "month_bytes_spent"),
        "upload 1 MB of 1 MB used this month, renewed on 2026-04-01",
    ),
    "month.download": (
        *("1 MB", "month_bytes_spent"),
        "download 1 MB of 1 MB used this month, renewed on 2026-04-01",
    ),
}


@pytest.mark.parametrize("key", WAYS)
def test_each_way_and_time_has_its_limit(key):
    size, code, observed = WAYS[key]
    limits = parse(f'budget.{key} = "{size}"').budget
    _, before = judge(spent(traffic=1_999_990), limits, NOON)
    assert (before.ok, before.code) == (True, "ok")
    _, after = judge(spent(traffic=2_000_000), limits, NOON)
    assert (after.ok, after.code, after.observed) == (False, code, observed)
    assert code in CODES["traffic_budget"]


def test_all_budgets_hold_together():
    text = 'traffic = "9 MB"\nupload = "3 MB"\n[budget.month]\nupload = "2 MB"\ndownload = "40 MB"'
    limits = parse(f"[budget]\n{text}").budget
    assert allowance(spent(traffic=2_000_000), limits) == Allowance(
        up=1_000_000, down=39_000_000, both=7_000_000
    )


def test_a_month_that_is_spent_is_told_before_the_day():
    limits = parse('budget = {upload = "1 MB", month.upload = "1 MB"}').budget
    _, told = judge(spent(traffic=2_000_000), limits, datetime(2026, 12, 31, 12, tzinfo=BERLIN))
    assert (told.code, told.observed[-10:]) == ("month_bytes_spent", "2027-01-01")


def test_uses_tell_each_budget_with_its_limit():
    found = uses(spent(training=720, traffic=3_000_000), BUDGET)
    assert [(u.period, u.text()) for u in found] == [
        ("today", "training 12 min of 2 h"),
        ("today", "traffic 3 MB of 10 MB"),
        ("today", "upload 1.5 MB (no limit)"),
        ("today", "download 1.5 MB (no limit)"),
        ("this month", "traffic 3 MB (no limit)"),
        ("this month", "upload 1.5 MB (no limit)"),
        ("this month", "download 1.5 MB (no limit)"),
    ]
    assert found[1] == Use(budget="traffic", period="today", used=3e6, limit=10_000_000)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('budget.upload = "much"', "budget.upload = 'much': expected a size such as '500 kB'"),
        (
            "budget.month.download = 5",
            "budget.month.download = 5: expected a size such as '500 kB'",
        ),
        ('budget.month.training = "5h"', "training"),
        ('budget.week.upload = "5 MB"', "week"),
    ],
)
def test_a_mistake_names_the_key_and_what_is_allowed(text, told):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert told in str(caught.value)


def test_the_environment_sets_a_month():
    limits = parse("", environment={"EDGE_AGENT_BUDGET_MONTH_UPLOAD": "5 MB"}).budget
    assert limits.month.upload == 5_000_000


def test_what_an_older_agent_remembers_is_read():
    old = b'{"day":"2026-03-04","training":60.0,"traffic":9000000,"seen":"2026-03-04"}'
    found = add_traffic(msgspec.json.decode(old, type=Spent), Traffic(2, 3), NOON)
    assert (found.training, found.traffic, found.upload, found.download) == (60, 9_000_005, 2, 3)
    assert (found.month.name, found.month.traffic) == ("2026-03", 5)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Spent) == found


def test_without_a_limit_all_is_fine():
    found = spent(training=80_000, traffic=10**12)
    assert all(s.ok for s in judge(found, FREE, NOON))
    assert judge(found, FREE, NOON)[1].observed == "1 TB used today, no limit"
    assert training_left(found, FREE) is None
    assert allowance(found, FREE) == Allowance()


def test_what_was_spent_beyond_the_limit_leaves_nothing():
    found = spent(training=9000, traffic=10**9)
    assert training_left(found, BUDGET) == 0.0
    assert allowance(found, BUDGET) == Allowance(both=0)


def test_a_running_training_sees_its_own_end_come():
    before = spent(training=7000)
    assert training_left(add_training(before, 150, NOON), BUDGET) == 50.0
    assert training_left(add_training(before, 200, NOON), BUDGET) == 0.0


def test_the_next_day_has_a_new_budget():
    found = today(spent(training=7200, traffic=10**7), NOON + DAY)
    assert [s.ok for s in judge(found, BUDGET, NOON)] == [True, True]


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
    assert not judge(found, BUDGET, NOON)[0].ok
    assert not judge(today(found, midnight), BUDGET, NOON)[0].ok


def test_a_device_without_a_clock_finds_no_fresh_budget_on_its_way_back():
    found = spent(training=7200)
    for boot in (datetime(1970, 1, 1, 1), datetime(2023, 5, 3), datetime(2023, 5, 3, 2)):
        found = today(found, boot.astimezone(BERLIN))
        assert not judge(found, BUDGET, NOON)[0].ok
    found = add_training(found, 60, datetime(2023, 5, 3, 3, tzinfo=BERLIN))
    assert (found.day, found.training) == ("2026-03-04", 7260.0)
    assert not judge(today(found, NOON), BUDGET, NOON)[0].ok
    assert judge(today(found, NOON + DAY), BUDGET, NOON)[0].ok


def test_a_clock_that_was_ahead_by_years_costs_one_day_at_most():
    ahead = add_training(Spent(), 7200, datetime(2036, 1, 1, 12, tzinfo=BERLIN))
    found = today(ahead, NOON)
    assert not judge(found, BUDGET, NOON)[0].ok
    assert judge(today(found, NOON + DAY), BUDGET, NOON)[0].ok


MONTH = parse('budget.month.traffic = "10 MB"').budget


def month_ok(found, at):
    return judge(today(found, at), MONTH, at)[1].ok


def on(text):
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


def test_a_month_ends_with_its_last_day():
    found = spent(traffic=10**7)
    assert not month_ok(found, NOON)
    assert not month_ok(found, on("2026-03-31T23:59:59"))
    assert month_ok(found, on("2026-04-01"))
    assert today(found, NOON + DAY).month.traffic == 10**7


def test_traffic_is_of_the_month_in_which_it_is_counted():
    found = add_traffic(spent(traffic=10**7), Traffic(1, 2), on("2026-04-02"))
    assert (found.month.name, found.month.traffic, found.traffic) == ("2026-04", 3, 3)


def test_a_clock_that_goes_back_over_the_end_of_a_month_grants_nothing():
    found = spent(on("2026-04-01T00:10"), traffic=10**7)
    found = today(found, on("2026-03-31T23:10"))
    assert not month_ok(found, on("2026-03-31T23:20"))
    assert not month_ok(found, on("2026-04-01T00:20"))


def test_a_device_without_a_clock_finds_no_fresh_month_on_its_way_back():
    found = spent(traffic=10**7)
    for boot in ("1970-01-01T01:00", "2023-05-03", "2023-05-04"):
        found = today(found, on(boot))
        assert not month_ok(found, on(boot))
    assert not month_ok(found, NOON)
    assert month_ok(found, on("2026-04-01"))


def test_a_clock_that_was_ahead_by_years_costs_one_month_at_most():
    found = today(spent(datetime(2036, 1, 1, 12, tzinfo=BERLIN), traffic=10**7), NOON)
    assert not month_ok(found, NOON)
    found = today(found, on("2026-03-29"))  # and then it was off for some days
    assert month_ok(found, on("2026-04-02"))


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
