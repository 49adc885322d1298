"""The robust strategies: against plain numpy, by hand, in any order, and against liars."""

import tracemalloc

import numpy as np
import pytest

from coordinator.aggregation import (
    Contribution,
    FedAvg,
    Krum,
    Median,
    MultiKrum,
    TrimmedMean,
    aggregator,
)
from coordinator.aggregation import rows as rows_module
from tests.coordinator.aggregation.samples import PARAMETERS, SIZE, contribution, flat, unflat
from wire.errors import Rule, WireError
from wire.plan import Parameter

KINDS = [Median(), TrimmedMean(), Krum(), MultiKrum(), MultiKrum(keep=2)]
NAMES = ["median", "trimmed_mean", "krum", "multi_krum", "multi_krum_2"]


def named(updates):
    return [(f"a{k:03}", update) for k, update in enumerate(updates)]


def closed(options, updates, tmp_path, base=0.0):
    """The round of `updates` by assignment."""
    return aggregator(options, PARAMETERS).close_all(
        unflat([base] * SIZE), None, iter(updates), tmp_path
    )


def constants(*values):
    return named(Contribution(unflat([v] * SIZE), 10, 1, 0) for v in values)


def reference(options, deltas):
    """The definitions, written down without blocks, files or Gram matrices."""
    n = len(deltas)
    if isinstance(options, Median):
        return np.median(deltas, axis=0)
    if isinstance(options, TrimmedMean):
        cut = int(options.trim * n)
        return np.sort(deltas, axis=0)[cut : n - cut].mean(axis=0)
    near = n - int(options.byzantine * n) - 2
    away = ((deltas[:, None] - deltas[None]) ** 2).sum(axis=2)
    scores = [sorted(np.delete(row, k))[:near] for k, row in enumerate(away)]
    keep = 1 if isinstance(options, Krum) else options.keep or near
    best = np.argsort([sum(s) for s in scores])[:keep]
    return deltas[best].mean(axis=0)


@pytest.mark.parametrize("options", KINDS, ids=NAMES)
@pytest.mark.parametrize("count", [5, 8, 21])
def test_it_is_the_definition_in_any_order_and_any_blocks(options, count, tmp_path, monkeypatch):
    updates = named(contribution(k) for k in range(count))
    deltas = np.array([flat(u.delta) for _, u in updates], np.float64)
    found = closed(options, updates, tmp_path, base=1.0)
    np.testing.assert_allclose(flat(found.weights), 1 + reference(options, deltas), rtol=1e-6)
    assert (found.updates, found.examples, found.state) == (count, 10 * count, None)
    random = np.random.default_rng(count)
    shuffled = [updates[k] for k in random.permutation(count)]
    again = closed(options, shuffled, tmp_path, base=1.0)
    np.testing.assert_array_equal(flat(again.weights), flat(found.weights))
    monkeypatch.setattr(rows_module, "_ROOM", 16 * count * 5)  # five columns at a time
    blockwise = closed(options, shuffled, tmp_path, base=1.0)
    np.testing.assert_allclose(flat(blockwise.weights), flat(found.weights), rtol=1e-6)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        (Median(), [5, 1, 100], 5),
        (Median(), [5, 1, 100, 7], 6),
        (TrimmedMean(trim=0.25), [9, 1, 3, 2], 2.5),
        (TrimmedMean(trim=0.2), [9, 1, 3, 2], 3.75),  # a fifth of four is none
        (TrimmedMean(trim=0.0), [1, 2, 6], 3),
        # Of five one may lie: two neighbours each. 3 has 2 and 4 at its sides, 4 has 3 and 2.
        (Krum(), [2, 3, 4, 10, -90], 3),
        (MultiKrum(), [2, 3, 4, 10, -90], 2.5),  # 3, and the first of 2 and 4, which score alike
        (MultiKrum(keep=1), [2, 3, 4, 10, -90], 3),
    ],
)
def test_by_hand(options, values, expected, tmp_path):
    found = closed(options, constants(*values), tmp_path)
    np.testing.assert_allclose(flat(found.weights), expected, rtol=1e-6)


def test_a_stale_update_is_scaled_down(tmp_path):
    late = [(name, u._replace(staleness=3)) for name, u in constants(8, 8, 8)]
    np.testing.assert_array_equal(flat(closed(Median(), late, tmp_path).weights), 4.0)


@pytest.mark.parametrize("options", KINDS, ids=NAMES)
def test_a_fifth_of_sign_flipped_scaled_updates_does_not_turn_it(options, tmp_path):
    truth = contribution(1000, size=0.1)
    honest = [contribution(k, size=0.02) for k in range(20)]
    for update in honest:
        for name, values in update.delta.items():
            values += truth.delta[name]
    liars = [
        u._replace(delta={n: v * np.float32(-10) for n, v in u.delta.items()}, examples=1 << 31)
        for u in honest[:4]
    ]
    updates = named([*liars, *honest[4:]])
    wanted = flat(truth.delta)

    def off(found):
        return np.linalg.norm(flat(found.weights) - wanted) / np.linalg.norm(wanted)

    assert off(closed(FedAvg(), updates, tmp_path)) > 2
    assert off(closed(options, updates, tmp_path)) < 0.3


@pytest.mark.parametrize("options", [Krum(), MultiKrum()])
def test_liars_that_agree_and_lie_far_off_are_not_chosen(options, tmp_path):
    liars = [update for _, update in constants(1e11, 1e11 + 1e5)]
    honest = [contribution(k, size=0.1) for k in range(8)]
    found = closed(options, named([*liars, *honest]), tmp_path)
    assert np.abs(flat(found.weights)).max() < 1


@pytest.mark.parametrize("options", [Krum(), MultiKrum()])
@pytest.mark.parametrize("values", [(1, 2), (1,), ()])
def test_too_few_updates_give_no_model(options, values, tmp_path):
    with pytest.raises(WireError) as refused:
        closed(options, constants(*values), tmp_path)
    assert refused.value.code is Rule.TOO_FEW


def test_krum_needs_more_the_more_may_lie(tmp_path):
    updates = constants(*range(1, 11))
    closed(Krum(byzantine=0.3), updates, tmp_path)  # 2 * 3 + 3 <= 10
    with pytest.raises(WireError, match="at least 11"):
        closed(Krum(byzantine=0.4), updates, tmp_path)


@pytest.mark.parametrize("options", KINDS, ids=NAMES)
def test_there_is_no_running_sum(options):
    strategy = aggregator(options, PARAMETERS)
    assert not strategy.streams
    with pytest.raises(TypeError, match="no running sum"):
        strategy.empty()
    with pytest.raises(TypeError):
        strategy.read(b"")


def test_an_assignment_counts_once(tmp_path):
    with pytest.raises(ValueError, match="two updates of the assignment x"):
        closed(Median(), [("x", contribution(1)), ("x", contribution(2))], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_beyond_float32_is_refused(tmp_path):
    with pytest.raises(WireError) as refused:
        closed(Median(), constants(3e38), tmp_path, base=3e38)
    assert refused.value.code is Rule.NOT_FINITE


def test_memory_does_not_grow_with_the_updates(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "_ROOM", 1 << 19)
    parameters = (Parameter(name="w", shape=(20_000,)),)
    strategy = aggregator(TrimmedMean(), parameters)

    def peak(count):
        def updates():
            for k in range(count):
                values = np.random.default_rng(k).normal(0, 1, 20_000).astype(np.float32)
                yield f"a{k}", Contribution({"w": values}, 1, 1, 0)

        tracemalloc.start()
        strategy.close_all({"w": np.zeros(20_000, np.float32)}, None, updates(), tmp_path)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(20), peak(200)  # the updates alone: 1.6 MB and 16 MB
    assert many < few + 500_000
    assert many < 2_500_000


def test_it_says_what_it_needs():
    parameters = (Parameter(name="w", shape=(199_210,)),)
    assert aggregator(Median(), parameters).needs(100) == (
        "median keeps every update of a round: 80 MB of disk for 100 updates"
    )
    assert aggregator(MultiKrum(), parameters).needs(1000) == (
        "multi_krum keeps every update of a round: 797 MB of disk for 1000 updates, and compares "
        "each with each: 24 MB of memory"
    )
