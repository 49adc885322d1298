"""How a metric is spread over devices, and what they gain: small sums known by hand, and laws."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.spread import Better, Gain, Spread, gain, spread, worst_of

FIGURES = st.floats(-1e6, 1e6, allow_nan=False)
VALUES = st.lists(st.tuples(FIGURES, st.integers(1, 10_000)), min_size=1, max_size=60)
PAIRS = st.lists(st.tuples(FIGURES, FIGURES), min_size=1, max_size=60)
EITHER: st.SearchStrategy[Better] = st.sampled_from(["higher", "lower"])


def other(better: Better) -> Better:
    return "lower" if better == "higher" else "higher"


def test_a_spread_by_hand():
    found = spread([(0.5, 10), (0.7, 30), (0.9, 10)], "higher")
    assert (found.devices, found.examples) == (3, 50)
    assert found.mean == pytest.approx((5 + 21 + 9) / 50)
    assert found.deviation == pytest.approx(math.sqrt(0.08 / 3))
    assert found.worst_decile == 0.5


def test_one_device_is_its_own_worst():
    alone = Spread(devices=1, examples=4, mean=0.25, deviation=0.0, worst_decile=0.25)
    assert spread([(0.25, 4)], "higher") == alone == spread([(0.25, 4)], "lower")


def test_the_worst_are_the_other_way_round_for_a_loss():
    values = [(float(n), 1) for n in range(20)]
    assert spread(values, "higher").worst_decile == 0.5
    assert spread(values, "lower").worst_decile == 18.5


@pytest.mark.parametrize(("devices", "worst"), [(1, 1), (10, 1), (11, 2), (20, 2), (101, 11)])
def test_a_tenth_is_of_whole_devices(devices: int, worst: int):
    assert worst_of(devices) == worst


def test_each_device_counts_once_but_in_the_mean():
    loud = spread([(1.0, 1_000_000), (0.0, 1), (0.5, 1)], "higher")
    quiet = spread([(1.0, 1), (0.0, 1), (0.5, 1)], "higher")
    assert (loud.deviation, loud.worst_decile) == (quiet.deviation, quiet.worst_decile)
    assert loud.mean > 0.99


def test_none_has_no_spread():
    with pytest.raises(ValueError, match="at least one"):
        spread([], "higher")


@given(VALUES, EITHER)
def test_a_spread_lies_among_its_values(values: list[tuple[float, int]], better: Better):
    found = spread(values, better)
    figures = [value for value, _ in values]
    low, high = min(figures), max(figures)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert found.devices == len(values)
    assert found.examples == sum(count for _, count in values)
    assert low - slack <= found.mean <= high + slack
    assert low - slack <= found.worst_decile <= high + slack
    assert 0 <= found.deviation <= (high - low) / 2 + slack
    plain = math.fsum(figures) / len(figures)
    worse = plain - found.worst_decile if better == "higher" else found.worst_decile - plain
    assert worse >= -slack


@given(VALUES, EITHER, st.integers(0, 1000))
def test_a_spread_is_the_same_in_any_order(
    values: list[tuple[float, int]], better: Better, seed: int
):
    shuffled = random.Random(seed).sample(values, len(values))
    assert spread(shuffled, better) == spread(values, better)


@given(VALUES, EITHER)
def test_a_loss_is_a_score_turned_over(values: list[tuple[float, int]], better: Better):
    found = spread(values, better)
    turned = spread([(-value, count) for value, count in values], other(better))
    assert turned.worst_decile == -found.worst_decile
    assert turned.mean == -found.mean
    assert turned.deviation == found.deviation


def test_a_gain_by_hand():
    pairs = [(0.5, 0.6), (0.5, 0.5), (0.8, 0.7), (0.4, 0.9)]
    found = gain(pairs, "higher")
    assert (found.devices, found.gaining) == (4, 2)
    assert found.median == pytest.approx(0.05)
    assert found.mean == pytest.approx(0.125)


def test_a_lower_loss_is_a_gain():
    lower = Gain(devices=1, gaining=1, median=0.5, mean=0.5)
    assert gain([(1.0, 0.5)], "lower") == lower


def test_none_gains_nothing():
    with pytest.raises(ValueError, match="at least one"):
        gain([], "higher")


@given(PAIRS, EITHER)
def test_what_one_gains_its_opposite_loses(pairs: list[tuple[float, float]], better: Better):
    found = gain(pairs, better)
    turned = gain([(personal, published) for published, personal in pairs], better)
    assert turned == Gain(
        devices=found.devices,
        gaining=sum(a != b for a, b in pairs) - found.gaining,
        median=-found.median,
        mean=-found.mean,
    )
    assert gain(pairs, other(better)) == turned


@given(PAIRS, EITHER)
def test_the_median_is_of_the_middle(pairs: list[tuple[float, float]], better: Better):
    found = gain(pairs, better)
    sign = 1 if better == "higher" else -1
    gains = [sign * (b - a) for a, b in pairs]
    assert sum(each >= found.median for each in gains) * 2 >= len(gains)
    assert sum(each <= found.median for each in gains) * 2 >= len(gains)
