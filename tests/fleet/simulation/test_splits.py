"""Splits deal every row once, are as skewed as they say, and are a seed's own."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.simulation import splits
from fleet.simulation.splits import Rows

LABELS = np.arange(1000) % 10
ENGINES = np.arange(1000) // 13

Deal = Callable[[np.random.Generator], list[Rows]]
DEALS: dict[str, Deal] = {
    "alike": lambda rng: splits.alike(1000, 30, rng),
    "shards": lambda rng: splits.shards(LABELS, 30, 2, rng),
    "dirichlet": lambda rng: splits.dirichlet(LABELS, 30, 0.5, rng),
    "majority": lambda rng: splits.majority(LABELS, 30, 0.9, rng),
    "by_group": lambda rng: splits.by_group(ENGINES, 30, rng),
}


@pytest.mark.parametrize("deal", DEALS.values(), ids=DEALS)
def test_each_row_is_dealt_once_and_a_seed_is_a_split(deal: Deal) -> None:
    shares = deal(np.random.default_rng(1))
    assert len(shares) == 30
    assert all(len(share) for share in shares)
    assert sorted(np.concatenate(shares)) == list(range(1000))
    again, other = deal(np.random.default_rng(1)), deal(np.random.default_rng(2))
    assert all(map(np.array_equal, shares, again))
    assert not all(map(np.array_equal, shares, other))


def test_alike_devices_have_as_many() -> None:
    assert {len(share) for share in DEALS["alike"](np.random.default_rng(1))} == {33, 34}


def test_two_shards_are_two_labels_or_three() -> None:
    shares = splits.shards(LABELS, 50, 2, np.random.default_rng(1))
    kinds = [len(np.unique(LABELS[share])) for share in shares]
    assert max(kinds) == 2
    assert {len(share) for share in shares} == {20}


def test_a_lower_concentration_is_more_skewed() -> None:
    def most(concentration: float) -> float:
        shares = splits.dirichlet(LABELS, 10, concentration, np.random.default_rng(1))
        return float(np.mean([np.bincount(LABELS[s]).max() / len(s) for s in shares]))

    assert most(0.1) > most(1.0) > most(100.0)
    assert most(10_000) < 0.2


@given(st.integers(1, 40), st.floats(0.001, 10), st.integers(0, 1000))
def test_a_dirichlet_draw_leaves_no_device_without(
    devices: int, concentration: float, seed: int
) -> None:
    shares = splits.dirichlet(LABELS[:40], devices, concentration, np.random.default_rng(seed))
    assert min(map(len, shares)) >= 1
    assert sorted(np.concatenate(shares)) == list(range(40))


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_a_majority_is_of_the_devices_own_label(share: float) -> None:
    shares = splits.majority(LABELS, 10, share, np.random.default_rng(1))
    for device, rows in enumerate(shares):
        assert np.mean(LABELS[rows] == device) == pytest.approx(share, abs=0.02)


def test_more_devices_than_labels_share_a_label() -> None:
    shares = splits.majority(LABELS, 20, 1.0, np.random.default_rng(1))
    assert [set(LABELS[rows]) for rows in shares] == [{d % 10} for d in range(20)]
    assert {len(rows) for rows in shares} == {50}


def test_a_group_stays_whole() -> None:
    shares = DEALS["by_group"](np.random.default_rng(1))
    owners = [{int(e) for e in ENGINES[rows]} for rows in shares]
    assert sum(map(len, owners)) == len(np.unique(ENGINES))
    assert {len(owned) for owned in owners} == {2, 3}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0, 0.99))
def test_what_is_held_out_is_not_trained_on(sizes: list[int], fraction: float) -> None:
    ends = np.cumsum(sizes)
    shares = np.split(np.arange(ends[-1]), ends[:-1])
    train, held = splits.hold_out(shares, fraction, np.random.default_rng(1))
    for share, kept, out in zip(shares, train, held, strict=True):
        assert sorted([*kept, *out]) == list(share)
        assert len(kept) >= 1
        assert len(out) >= (1 if fraction and len(share) > 1 else 0)
        assert abs(len(out) - fraction * len(share)) <= 1


@pytest.mark.parametrize(
    ("deal", "why"),
    [
        (lambda rng: splits.alike(3, 4, rng), "3 examples for 4 devices; at least 4"),
        (lambda rng: splits.alike(3, 0, rng), "at least 1"),
        (lambda rng: splits.shards(LABELS[:9], 5, 2, rng), "at least 10"),
        (lambda rng: splits.shards(LABELS, 5, 0, rng), "at least 1"),
        (lambda rng: splits.dirichlet(LABELS, 5, 0.0, rng), "above 0"),
        (lambda rng: splits.dirichlet(LABELS[:4], 5, 1.0, rng), "4 examples for 5 devices"),
        (lambda rng: splits.majority(LABELS, 9, 0.9, rng), "9 devices for 10 labels"),
        (lambda rng: splits.majority(LABELS, 10, 1.1, rng), "at most 1"),
        (lambda rng: splits.by_group(ENGINES[:26], 3, rng), "2 groups for 3 devices"),
        (lambda rng: splits.hold_out([np.arange(3)], 1.0, rng), "below 1"),
    ],
)
def test_what_cannot_be_dealt_is_said(deal: Deal, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        deal(np.random.default_rng(1))
