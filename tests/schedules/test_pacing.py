"""Check-in pacing: how wide, how soon, at which hour, and what happens when all come at once."""

import heapq
import itertools
import random
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schedules.pacing import CHECK_INS_PER_SECOND, Gate, Hours, RetryWindow, retry_window

SECONDS = st.floats(min_value=0, max_value=1e7)
INTERVAL = st.floats(min_value=0.05, max_value=7 * 86400)
POPULATION = st.integers(0, 10**9)
FRACTION = st.floats(min_value=0, max_value=1)
HOUR = 3600.0
DAY = 24 * HOUR


# Small populations meet


def test_a_small_population_meets_at_the_next_multiple_of_the_interval():
    assert retry_window(0, 60, 100, phase=20) == RetryWindow(40, 46)
    assert retry_window(0, 60, 100, phase=600_020) == RetryWindow(40, 46)


def test_a_meeting_that_is_about_to_begin_is_left_out():
    assert retry_window(0, 60, 100, phase=50) == RetryWindow(70, 76)


def test_a_population_meets_in_as_much_time_as_the_rate_demands():
    assert retry_window(0, 60, 2000, phase=20) == RetryWindow(40, 60)
    assert retry_window(0, 60, 2000, phase=20, rate=1000) == RetryWindow(40, 46)


def test_a_small_population_meets_at_the_opening_that_it_waits_for():
    assert retry_window(wait=300, interval=60, population=100) == RetryWindow(300, 306)


@given(INTERVAL, st.integers(1, 100), st.lists(SECONDS, min_size=2, max_size=20), st.randoms())
def test_who_comes_by_at_any_time_comes_back_in_the_same_windows(interval, share, times, rng):
    population = int(share / 100 * 0.4 * interval * CHECK_INS_PER_SECOND)
    for now in times:
        window = retry_window(0, interval, population, phase=now)
        back = (now + window.pick(rng.random())) % interval
        slack = 1e-6 * interval + 1e-6
        assert min(back, interval - back) < 1e-3 or back <= 0.4 * interval + slack
        assert 0.25 * interval <= window.after <= 1.25 * interval
        assert window.before <= 2 * interval


def test_a_fleet_that_comes_by_at_random_soon_meets_and_keeps_meeting():
    rng = random.Random(1)
    due = [rng.random() * 60 for _ in range(50)]
    for _ in range(5):
        windows = [retry_window(0, 60, 50, phase=now) for now in due]
        due = [now + w.pick(rng.random()) for now, w in zip(due, windows, strict=True)]
        assert max(now % 60 for now in due) < 6
    # Those who had just missed the first meeting are one behind, and meet with the others.
    assert {now // 60 for now in due} == {5, 6}


# Large ones spread


def test_a_large_population_is_spread_out():
    assert retry_window(wait=300, interval=60, population=1_000_000) == RetryWindow(300, 20_300)


def test_a_large_population_does_not_come_back_sooner_than_half_the_interval():
    assert retry_window(wait=0, interval=60, population=6_000) == RetryWindow(30, 150)


@pytest.mark.parametrize("population", [3_500, 20_000])
def test_a_large_population_makes_a_steady_rate(population):
    rng = random.Random(1)
    due = [rng.random() * 5 for _ in range(population)]  # all at once
    heapq.heapify(due)
    seen: Counter[int] = Counter()
    while due[0] < 2000:
        now = heapq.heappop(due)
        seen[int(now / 10)] += 1
        heapq.heappush(due, now + retry_window(0, 60, population, now).pick(rng.random()))
    later = [seen[ten] / 10 for ten in range(60, 200)]
    assert max(later) <= 1.2 * CHECK_INS_PER_SECOND
    assert min(later) >= 0.6 * sum(later) / len(later)


@given(SECONDS, INTERVAL, POPULATION, SECONDS)
def test_a_window_opens_no_sooner_than_asked_and_bears_its_population(
    wait, interval, population, phase
):
    window = retry_window(wait, interval, population, phase)
    width = window.before - window.after
    slack = 1e-9 * window.before + 1e-9
    assert window.after >= max(wait, interval / 4) - slack
    assert population <= CHECK_INS_PER_SECOND * (width + slack)
    assert width >= interval / 10 - slack


@given(SECONDS, INTERVAL, POPULATION, SECONDS)
def test_more_devices_never_make_a_narrower_window(wait, interval, population, phase):
    one, two = (retry_window(wait, interval, n, phase) for n in (population, population * 2))
    slack = 1e-9 * two.before
    assert two.before - two.after >= one.before - one.after - slack


@given(SECONDS, INTERVAL, POPULATION, FRACTION)
def test_the_moment_picked_lies_in_the_window(wait, interval, population, fraction):
    window = retry_window(wait, interval, population)
    assert window.after <= window.pick(fraction) <= window.before * (1 + 1e-12)
    assert (window.pick(0), window.pick(0.5)) == (
        window.after,
        window.after + (window.before - window.after) / 2,
    )


# The time of day


def learned(per_hour, days=10):
    """What `days` days teach in which so many devices check in in each hour of the day."""
    hours = Hours()
    for hour in range(24 * days):
        hours = hours.learn((hour + 1) * HOUR, per_hour(hour % 24))
    return hours


def night(hour):
    return 90_000 if 1 <= hour < 5 else 1_000


def test_all_are_reckoned_with_until_the_hour_is_known():
    assert Hours().population(3 * HOUR, 5000) == 5000
    assert Hours().learn(4 * HOUR, 10).population(3 * HOUR, 5000) == 5000


def test_the_number_is_that_of_the_hour_and_of_the_next_if_it_is_more():
    hours = learned(night)
    by_hour = [hours.population(400 * DAY + h * HOUR + 5, 100_000) for h in range(24)]
    assert by_hour == [90_000 if h < 5 else 1_000 for h in range(24)]


def test_the_day_s_windows_are_short_though_the_night_s_are_long():
    hours = learned(night)
    widths = [
        w.before - w.after
        for now in (3 * HOUR, 12 * HOUR)
        for w in [retry_window(0, 600, hours.population(now, 100_000), now)]
    ]
    assert widths == [1800, 60]


def test_never_more_than_there_are():
    assert learned(night).population(2 * HOUR, 700) == 700


def test_a_fleet_that_changes_is_learned_anew_a_growing_one_sooner():
    grown, shrunk = learned(lambda _: 100), learned(lambda _: 10_000)
    for day in range(10, 14):
        for hour in range(24):
            now = day * DAY + (hour + 1) * HOUR
            grown, shrunk = grown.learn(now, 10_000), shrunk.learn(now, 100)
    assert grown.population(0, 10**6) > 9_000
    assert 3_000 < shrunk.population(0, 10**6) < 5_000


@given(st.lists(st.tuples(st.floats(0, 40 * DAY), st.integers(0, 10**9)), max_size=30))
def test_an_hour_counts_once_and_what_is_kept_comes_back(told):
    hours = Hours()
    for now, devices in sorted(told):
        hours = hours.learn(now, devices)
        assert hours.learn(now, devices + 5) is hours
        assert Hours.load(hours.dump()) == hours
        assert len(hours.dump()) == 25
    assert all(0 <= hours.population(h * HOUR, 1000) <= 1000 for h in range(24))


def test_a_number_belongs_to_the_hour_in_which_most_of_its_time_lies():
    assert [n for n, c in enumerate(Hours().learn(7 * HOUR + 60, 5).counts) if c == 5] == [6]
    assert [n for n, c in enumerate(Hours().learn(7 * HOUR - 60, 5).counts) if c == 5] == [6]


def test_a_clock_that_was_years_ahead_does_not_end_the_learning():
    ahead = Hours().learn(10_000 * DAY, 5)
    assert ahead.learn(5_000 * DAY + HOUR, 7).counts[0] == 7


@pytest.mark.parametrize("kept", [[], [1.0] * 24, [float("nan")] * 25, [float("inf")] * 25])
def test_what_cannot_have_been_kept_is_nothing_learned(kept):
    assert Hours.load(kept) == Hours()


# Stampedes


class Outage:
    """Devices that all come back within `within` seconds, and then as they are told, while
    `fresh` others a second come by."""

    def __init__(self, devices, within=5.0, fresh=0.0, gate=None):
        self.rng = random.Random(1)
        self.gate = gate or Gate()
        self.devices = devices
        self.served: list[float] = []
        self.refused: Counter[int] = Counter()
        self.asked: Counter[int] = Counter()
        due = [(self.rng.random() * within, n) for n in range(devices)]
        due += [(n / fresh, devices + n) for n in range(int(devices / 50 * (fresh > 0)))]
        heapq.heapify(due)
        while due:
            now, device = heapq.heappop(due)
            self.asked[int(now)] += 1
            window = self.gate.admit(now)
            if window is None:
                self.served.append(now)
            else:
                self.refused[device] += 1
                heapq.heappush(due, (now + window.pick(self.rng.random()), device))


@pytest.mark.parametrize(("devices", "fresh"), [(10_000, 0), (10_000, 30), (100_000, 0)])
def test_after_an_outage_all_are_served_in_turn_and_none_starves(devices, fresh):
    outage = Outage(devices, fresh=fresh)
    gate = outage.gate
    assert len(outage.served) >= devices
    thousand = [b - a for a, b in zip(outage.served, outage.served[1000:], strict=False)]
    assert min(thousand) >= (1001 - gate.burst) / gate.rate - 1e-6
    in_second = Counter(int(now) for now in outage.served)
    assert max(count for second, count in in_second.items() if second > 5) <= 1.5 * gate.rate
    assert outage.served[-1] <= 1.6 * devices / gate.rate
    assert max(outage.refused.values()) <= 12
    assert sum(outage.refused.values()) <= 2 * devices
    # They do not stampede back either: what is turned away later on is little.
    assert max(count for second, count in outage.asked.items() if second > 10) <= 2 * gate.rate


def test_more_devices_than_can_be_booked_are_served_in_the_end():
    gate = Gate(rate=1.0, burst=2.0)  # 14,400 can be booked
    outage = Outage(20_000, gate=gate)
    assert len(outage.served) == 20_000
    assert outage.served[-1] <= 2.5 * 20_000
    assert max(outage.refused.values()) <= 12


def test_a_burst_goes_through_and_then_the_rate():
    gate = Gate(rate=8, burst=16)
    assert [gate.admit(100.0) for _ in range(16)] == [None] * 16
    assert gate.admit(100.0) is not None
    assert gate.admit(100.125) is None
    assert gate.admit(100.125) is not None


@given(st.lists(st.floats(0, 60), min_size=1, max_size=300), st.floats(0.5, 50), st.floats(1, 50))
def test_no_span_of_time_takes_more_than_the_rate_and_one_burst(times, rate, burst):
    gate = Gate(rate=rate, burst=burst)
    passed = [now for now in sorted(times) if gate.admit(now) is None]
    assume(passed)
    for first, begin in enumerate(passed):
        for last, end in enumerate(passed[first:], first):
            assert last - first + 1 <= burst + rate * (end - begin) + 1e-6


@given(st.lists(st.floats(0, 60), min_size=1, max_size=300), st.floats(0.05, 50))
def test_who_is_turned_away_comes_after_those_turned_away_before(times, rate):
    gate = Gate(rate=rate, burst=1)
    told = [(now, window) for now in sorted(times) if (window := gate.admit(now))]
    assert all(1 <= window.after < window.before for _, window in told)
    for (earlier, one), (later, two) in itertools.pairwise(told):
        assert later + two.after >= earlier + one.after + 0.99 / rate


@given(st.integers(1, 200))
def test_nobody_is_sent_away_for_longer_than_a_night(devices):
    gate = Gate(rate=0.001, burst=1)
    windows = [gate.admit(0.0) for _ in range(devices)][1:]
    assert all(window and 1 <= window.after < window.before <= 5 * HOUR for window in windows)


def test_a_clock_that_goes_back_gives_no_tokens():
    gate = Gate(rate=1, burst=1)
    assert gate.admit(10.0) is None
    assert gate.admit(5.0) is not None
    assert gate.admit(10.5) is not None
    assert gate.admit(11.0) is None
