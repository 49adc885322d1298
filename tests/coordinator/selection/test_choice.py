"""Who is admitted: the share expected, what grows with waiting, who comes first."""

import random
import statistics
from collections import Counter

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coordinator.selection import Crowd, Data, Fair, Selection, Speed, Standing, Uniform, admits
from coordinator.selection.choice import _fair

INTERVAL = 60.0
KINDS = st.sampled_from([Uniform(), Data(), Speed(), Fair()])
STANDINGS = st.builds(
    Standing,
    accepted=st.integers(0, 10**6),
    examples=st.none() | st.integers(0, 1 << 31),
    seconds=st.none() | st.floats(0, 1e7),
)
CROWDS = st.builds(
    Crowd,
    population=st.integers(0, 10**6),
    examples=st.none() | st.floats(0, 1e9),
    accepted=st.dictionaries(st.integers(0, 10**6), st.integers(0, 10**6), max_size=8),
)
PLACES = st.integers(1, 10**4)
WAITED = st.floats(0, 1e6)


def asks(options: Selection, number: int = 0, **changed: object) -> bool:
    """Whether device `number` of a thousand gets one of a hundred places of a fresh round."""
    facts: dict[str, object] = {
        "device": f"device-{number}",
        "task": "digits",
        "round_number": 1,
        "standing": Standing(),
        "crowd": Crowd(population=1000),
        "places": 100,
        "waited": 0.0,
        "interval": INTERVAL,
        "remaining": 600.0,
    }
    return admits(options, **(facts | changed))  # type: ignore[arg-type]


def share(options, standing=None, rounds=2000, **changed):
    """How often one device is admitted."""
    of = {"standing": standing or Standing()} | changed
    return sum(asks(options, round_number=n, **of) for n in range(rounds)) / rounds


def near(expected):
    """Within four standard deviations of what 2000 draws give."""
    return pytest.approx(expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5 + 1e-9)


# The share expected


def test_as_many_are_admitted_as_there_are_places():
    admitted = [sum(asks(Uniform(), n, round_number=r) for n in range(1000)) for r in range(40)]
    assert statistics.mean(admitted) == pytest.approx(100, abs=4 * 9.5 / 40**0.5)
    assert 5 < statistics.stdev(admitted) < 15  # each draws for itself


def test_each_device_and_each_round_draws_anew():
    served = Counter(
        n for r in range(100) for n in range(200) if asks(Uniform(), n, round_number=r)
    )
    assert all(0 < served[n] < 30 for n in range(200))
    assert share(Uniform(), task="other") == near(0.1)


@given(KINDS, STANDINGS, CROWDS, PLACES, WAITED, st.integers(0, 10**6))
def test_the_same_device_draws_the_same_in_one_round(kind, standing, crowd, places, waited, number):
    facts = {"standing": standing, "crowd": crowd, "places": places, "waited": waited}
    once = asks(kind, round_number=number, **facts)
    assert once is asks(kind, round_number=number, **facts)
    assert once in (True, False)


@given(KINDS, STANDINGS, CROWDS, PLACES, st.integers(0, 1000), st.floats(1, 1000))
def test_who_is_admitted_stays_admitted_as_time_passes(
    kind, standing, crowd, places, number, interval
):
    facts = {"standing": standing, "crowd": crowd, "places": places, "interval": interval}
    steps = [asks(kind, number, waited=interval * n / 4, **facts) for n in range(32)]
    assert steps == sorted(steps)
    assert steps[-1]


@given(KINDS, STANDINGS, CROWDS, PLACES, st.integers(0, 1000))
def test_more_places_never_shut_anybody_out(kind, standing, crowd, places, number):
    few, more = (
        asks(kind, number, standing=standing, crowd=crowd, places=p) for p in (places, places + 7)
    )
    assert more or not few


@given(STANDINGS, st.integers(0, 100), st.sampled_from([Uniform(), Data(), Fair()]))
def test_a_population_that_fits_is_admitted_at_once(standing, population, kind):
    assert asks(kind, standing=standing, crowd=Crowd(population=population))


def test_a_round_whose_chosen_ones_sleep_is_not_starved():
    shares = [share(Uniform(), waited=INTERVAL * n) for n in (0, 0.99, 1.5, 2, 2.5, 3)]
    assert shares[:2] == [near(0.1)] * 2
    assert shares == sorted(shares)
    assert 0.2 < shares[3] < 0.5
    assert shares[-1] == 1


# By data


def test_the_share_is_proportional_to_the_examples():
    crowd = Crowd(population=1000, examples=100.0)
    for examples, expected in ((10, 0.01), (100, 0.1), (200, 0.2), (400, 0.4)):
        assert share(Data(), Standing(examples=examples), crowd=crowd) == near(expected)


def test_who_has_not_told_its_examples_counts_as_the_mean():
    assert share(Data(), Standing(), crowd=Crowd(population=1000, examples=50.0)) == near(0.1)
    assert share(Data(), Standing(examples=9)) == near(0.1)  # nobody has, before this one


def test_a_boast_is_worth_a_few_times_the_mean():
    crowd = Crowd(population=1000, examples=100.0)
    liar = Standing(examples=1 << 31)
    assert share(Data(at_most=3), liar, crowd=crowd) == near(0.3)


# By speed


def test_who_cannot_finish_with_a_margin_is_not_asked():
    assert share(Speed(), Standing(seconds=401), remaining=600) == 0
    assert share(Speed(), Standing(seconds=399), remaining=600) == near(0.1)
    assert share(Speed(margin=2), Standing(seconds=301), remaining=600) == 0


def test_who_was_never_measured_may_try():
    assert share(Speed(), Standing(), remaining=1.0) == near(0.1)


def test_a_population_that_fits_is_no_reason_to_ask_who_cannot_finish():
    slow = {"standing": Standing(seconds=1000), "crowd": Crowd(population=5)}
    assert not asks(Speed(), **slow)
    assert asks(Speed(), **slow, remaining=1600)


def test_when_nobody_is_fast_enough_the_margin_goes_first_and_then_the_rule():
    def admitted(intervals, seconds, begun=False):
        waited = intervals * INTERVAL
        return asks(Speed(), standing=Standing(seconds=seconds), waited=waited, begun=begun)

    assert [admitted(n, 500) for n in (3, 4, 5, 5.9)] == [False, False, True, True]
    assert [admitted(n, 5000) for n in (3, 5.9, 6)] == [False, False, True]
    assert [admitted(n, 5000, begun=True) for n in (3, 5.9, 6, 1000)] == [False] * 4
    assert admitted(6, 500, begun=True)


# Fairly


def fair_share(accepted, histogram, places=100):
    population = sum(histogram.values())
    crowd = Crowd(population=population, accepted=histogram)
    return share(Fair(), Standing(accepted=accepted), crowd=crowd, places=places)


def test_each_update_that_counted_halves_the_chance():
    histogram = {4: 1000, 5: 1000, 6: 1000}
    shares = [fair_share(n, histogram) for n in (4, 5, 6)]
    assert shares == [near(0.1 * 4 / 7), near(0.1 * 2 / 7), near(0.1 / 7)]
    assert fair_share(3, histogram) == near(0.1 * 8 / 7)


def test_a_few_newcomers_are_asked_first_and_leave_the_other_places_to_the_rest():
    histogram = {0: 20, 1000: 400}
    assert fair_share(0, histogram) == 1
    assert fair_share(1000, histogram) == near(80 / 400)


def test_who_never_served_is_in_no_entry():
    crowd = Crowd(population=1000, accepted={3: 500})
    expected = 100 / (500 + 500 / 8)
    assert share(Fair(), Standing(), crowd=crowd) == near(expected)
    assert share(Fair(), Standing(accepted=3), crowd=crowd) == near(expected / 8)


@given(
    st.dictionaries(st.integers(0, 60), st.integers(1, 500), min_size=1, max_size=12),
    st.integers(1, 400),
)
def test_the_fair_chances_sum_up_to_the_places(histogram, places):
    population = sum(histogram.values())
    assume(population > places)
    crowd = Crowd(population=population, accepted=histogram)
    chances = {level: _fair(level, crowd, places) for level in histogram}
    assert sum(chances[k] * n for k, n in histogram.items()) == pytest.approx(places)
    ordered = [chances[level] for level in sorted(chances)]
    assert ordered == sorted(ordered, reverse=True)
    assert all(0 <= chance <= 1 for chance in ordered)


# Many rounds


def served_after(options, rounds=60, devices=60, places=13, seed=1, asleep=0.0):
    """How often each device served. They come by in random order, once an interval, unless they
    are asleep, until the round is full."""
    rng = random.Random(seed)
    standings = [Standing() for _ in range(devices)]
    for number in range(rounds):
        crowd = Crowd(population=devices, accepted=Counter(s.accepted for s in standings))
        chosen: set[int] = set()
        for interval in range(4):
            for n in rng.sample(range(devices), devices):
                if n in chosen or len(chosen) == places or rng.random() < asleep:
                    continue
                facts = {"round_number": number, "standing": standings[n], "crowd": crowd}
                waited = interval * INTERVAL
                if asks(options, n, **facts, places=places, waited=waited):
                    chosen.add(n)
        assert asleep or len(chosen) == places
        for n in chosen:
            standings[n] = msgspec.structs.replace(standings[n], accepted=standings[n].accepted + 1)
    return [s.accepted for s in standings]


@pytest.mark.parametrize("asleep", [0.0, 0.5])
def test_fair_evens_out_who_serves(asleep):
    fair, uniform = (served_after(kind, asleep=asleep) for kind in (Fair(), Uniform()))
    assert sum(fair) == pytest.approx(sum(uniform), rel=0.05)
    assert statistics.pstdev(fair) < statistics.pstdev(uniform) / 2
    assert max(fair) - min(fair) <= 5


# The task file's words


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"kind": "uniform"}, Uniform()),
        ({"kind": "data"}, Data(at_most=10.0)),
        ({"kind": "speed"}, Speed(margin=1.5)),
        ({"kind": "speed", "margin": 2}, Speed(margin=2.0)),
        ({"kind": "fair"}, Fair()),
    ],
)
def test_the_kinds_by_name(table, expected):
    assert msgspec.convert(table, Selection) == expected


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"kind": "luck"}, "Invalid value 'luck'"),
        ({"kind": "uniform", "margin": 2}, "unknown field `margin`"),
        ({"kind": "speed", "margin": 0.5}, "margin = 0.5: from 1 to 100"),
        ({"kind": "speed", "margin": float("nan")}, "margin = nan: from 1 to 100"),
        ({"kind": "data", "at_most": float("inf")}, "at_most = inf: from 1 to 100"),
    ],
)
def test_what_cannot_be_is_named(table, why):
    with pytest.raises(msgspec.ValidationError, match=why):
        msgspec.convert(table, Selection)
