"""The server's optimisers against plain numpy, over several rounds, and by hand."""

import numpy as np
import pytest

from coordinator.aggregation import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedYogi,
    aggregator,
)
from tests.coordinator.aggregation.samples import (
    PARAMETERS,
    SIZE,
    contribution,
    flat,
    unflat,
)
from wire.errors import Rule, WireError

KINDS = [
    FedAvg(),
    FedAvgM(learning_rate=0.5, momentum=0.8),
    FedAdagrad(learning_rate=0.1, beta1=0.2, tau=0.01),
    FedAdam(learning_rate=0.02, tau=0.001),
    FedYogi(learning_rate=0.02, tau=0.001),
]


def reference(options, rounds, x):
    """Reddi et al., 2021, algorithm 2, written down once more: flat, in float64."""
    m, v, velocity = 0.0, getattr(options, "tau", 0.0) ** 2 * np.ones(SIZE), 0.0
    for updates in rounds:
        weights = np.array([u.examples for u in updates], np.float64)
        d = np.average([flat(u.delta) for u in updates], axis=0, weights=weights)
        if isinstance(options, FedAvg):
            x = x + d
            continue
        if isinstance(options, FedAvgM):
            velocity = options.momentum * velocity + d
            x = x + options.learning_rate * velocity
            continue
        m = options.beta1 * m + (1 - options.beta1) * d
        if isinstance(options, FedAdagrad):
            v = v + d**2
        elif isinstance(options, FedAdam):
            v = options.beta2 * v + (1 - options.beta2) * d**2
        else:
            v = v - (1 - options.beta2) * d**2 * np.sign(v - d**2)
        x = x + options.learning_rate * m / (np.sqrt(v) + options.tau)
    return x


@pytest.mark.parametrize("options", KINDS, ids=lambda o: type(o).__name__)
def test_it_is_the_published_algorithm_over_several_rounds(options):
    strategy = aggregator(options, PARAMETERS)
    rounds = [
        [contribution(10 * r + k, examples=1 + 7 * k, size=0.05) for k in range(4)]
        for r in range(5)
    ]
    start = flat(contribution(99).delta)
    base, state = unflat(start), None
    for updates in rounds:
        total = strategy.empty()
        for update in updates:
            strategy.check(update)
            total.add(update)
        found = strategy.close(base, state, total)
        base, state = found.weights, found.state
        assert (found.updates, found.examples) == (4, 1 + 8 + 15 + 22)
        assert all(v.dtype == np.float32 for v in base.values())
        assert (state is None) == isinstance(options, FedAvg)
    np.testing.assert_allclose(flat(base), reference(options, rounds, start), rtol=1e-5, atol=1e-7)


def one_round(options, change, state=None, base=0.0):
    strategy = aggregator(options, PARAMETERS)
    updates = [("a", contribution(0)._replace(delta=unflat([change] * SIZE)))]
    return strategy.close_all(unflat([base] * SIZE), state, updates, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        (FedAvg(), 1.0, 1.0),
        (FedAvgM(momentum=0.5), 1.0, 1.5),
        # v = 1/4 + 1 and then + 1; m = 1/2 and then 3/4
        (FedAdagrad(learning_rate=1.0, beta1=0.5, tau=0.5), 0.5 / (1.25**0.5 + 0.5), 0.375),
        # v = 1/2 * 1/4 + 1/2 = 5/8, then 13/16
        (
            FedAdam(learning_rate=1.0, beta1=0.5, beta2=0.5, tau=0.5),
            0.5 / (0.625**0.5 + 0.5),
            0.75 / (0.8125**0.5 + 0.5),
        ),
        # v = 1/4 + 1/2 = 3/4, then 3/4 + 1/2 = 5/4
        (
            FedYogi(learning_rate=1.0, beta1=0.5, beta2=0.5, tau=0.5),
            0.5 / (0.75**0.5 + 0.5),
            0.75 / (1.25**0.5 + 0.5),
        ),
    ],
    ids=lambda o: type(o).__name__,
)
def test_two_rounds_by_hand(options, first, second):
    found = one_round(options, 1.0)
    np.testing.assert_allclose(flat(found.weights), first, rtol=1e-6)
    again = one_round(options, 1.0, found.state)
    np.testing.assert_allclose(flat(again.weights), second, rtol=1e-6)


def test_the_same_round_leaves_the_same_bytes():
    first, second = (one_round(FedAdam(), 0.3) for _ in range(2))
    assert first.state == second.state
    np.testing.assert_array_equal(flat(first.weights), flat(second.weights))


@pytest.mark.parametrize("state", [b"", b"x" * 500], ids=["empty", "noise"])
def test_a_state_that_is_none_is_refused(state):
    with pytest.raises(WireError):
        one_round(FedAdam(), 0.1, state)


def test_the_state_of_another_strategy_is_refused():
    with pytest.raises(WireError) as refused:
        one_round(FedAdam(), 0.1, one_round(FedAvgM(), 0.1).state)
    assert refused.value.code is Rule.WRONG_NAMES


@pytest.mark.parametrize("options", [FedAvgM(learning_rate=1e38), FedAdam(learning_rate=1e39)])
def test_a_model_beyond_float32_is_refused(options):
    with pytest.raises(WireError) as refused:
        one_round(options, 10.0)
    assert refused.value.code is Rule.NOT_FINITE


@pytest.mark.parametrize("options", KINDS, ids=lambda o: type(o).__name__)
def test_a_round_without_updates_has_no_model(options):
    strategy = aggregator(options, PARAMETERS)
    with pytest.raises(WireError) as refused:
        strategy.close(unflat([0.0] * SIZE), None, strategy.empty())
    assert refused.value.code is Rule.TOO_FEW


def test_closing_changes_neither_the_base_nor_the_sum():
    strategy = aggregator(FedAvg(), PARAMETERS)
    total, base = strategy.empty(), contribution(5).delta
    total.add(contribution(1))
    before, start = total.to_bytes(), flat(base).copy()
    first, second = (strategy.close(base, None, total) for _ in range(2))
    np.testing.assert_array_equal(flat(first.weights), flat(second.weights))
    np.testing.assert_array_equal(flat(base), start)
    assert total.to_bytes() == before
    assert strategy.needs(1000) is None
