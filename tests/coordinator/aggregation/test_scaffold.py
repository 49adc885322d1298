"""SCAFFOLD's server against the formulas, written down once more in numpy."""

import itertools

import numpy as np
import pytest

from coordinator.aggregation import Contribution, Scaffold, aggregator
from coordinator.aggregation.options import CONTROL
from tests.coordinator.aggregation.samples import PARAMETERS, contribution, flat, unflat
from wire.checkpoint import Weights
from wire.errors import Rule, WireError


def zeros() -> Weights:
    return {CONTROL + p.name: np.zeros(p.shape, np.float32) for p in PARAMETERS}


def controls(weights: Weights) -> np.ndarray:
    return flat({p.name: weights[CONTROL + p.name] for p in PARAMETERS})


def model(weights: Weights) -> np.ndarray:
    return flat({p.name: weights[p.name] for p in PARAMETERS})


def closed(options: Scaffold, base: Weights, updates: list[Contribution]) -> Weights:
    strategy = aggregator(options, PARAMETERS)
    total = strategy.empty()
    for update in updates:
        strategy.check(update)
        total.add(update)
    found = strategy.close(base, None, total)
    assert found.state is None
    assert (found.updates, found.examples) == (len(updates), sum(u.examples for u in updates))
    return found.weights


@pytest.mark.parametrize("by", ["examples", "uniform"])
@pytest.mark.parametrize("devices", [3, 10])
def test_it_is_the_formula_over_several_rounds(by, devices):
    """Also where devices make unequal numbers of steps."""
    options = Scaffold(devices=devices, learning_rate=0.7, by=by, max_steps=40)
    base = contribution(99).delta | zeros()
    x, c = model(base).astype("f8"), controls(base).astype("f8")
    for number in range(5):
        updates = [
            contribution(10 * number + k, examples=5 + 9 * k, steps=10 * (k + 1)) for k in range(3)
        ]
        base = closed(options, base, updates)
        weights = [1] * 3 if by == "uniform" else [u.examples for u in updates]
        step = np.average([flat(u.delta) / u.steps for u in updates], axis=0, weights=weights)
        x = x + 0.7 * np.average([u.steps for u in updates], weights=weights) * step
        c = c + 3 / devices * (step - c)
        np.testing.assert_allclose(model(base), x, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(controls(base), c, rtol=1e-5, atol=1e-7)
        assert all(values.dtype == np.float32 for values in base.values())


def test_more_updates_than_devices_count_as_all_of_them():
    base = contribution(1).delta | {n: v + 5 for n, v in zeros().items()}
    updates = [contribution(n, steps=4) for n in range(4)]
    found = controls(closed(Scaffold(devices=2, by="uniform"), base, updates))
    np.testing.assert_allclose(
        found, np.mean([flat(u.delta) / 4 for u in updates], axis=0), atol=1e-6
    )


def test_the_model_is_the_same_bit_for_bit_in_any_order():
    base = contribution(1).delta | zeros()
    updates = [contribution(n, examples=3 + n, steps=2 + n) for n in range(4)]
    options = Scaffold(devices=9, max_steps=4)
    found = {
        (model(made).tobytes(), controls(made).tobytes())
        for order in itertools.permutations(updates)
        for made in [closed(options, base, list(order))]
    }
    assert len(found) == 1


def test_a_weight_without_a_control_variate_is_averaged_like_the_others():
    base = contribution(1).delta | zeros()
    updates = [contribution(n, steps=5) for n in range(3)]
    options = Scaffold(devices=3)
    with_all = closed(options, base, updates)
    del base[CONTROL + "b"]
    without = closed(options, base, updates)
    assert CONTROL + "b" not in without
    np.testing.assert_array_equal(without["b"], with_all["b"])


def test_a_claim_of_many_steps_lengthens_the_step_by_what_the_task_allows():
    base = contribution(1).delta | zeros()
    one = contribution(2, steps=10)
    boast = one._replace(steps=1 << 31)
    capped = closed(Scaffold(devices=2, max_steps=20), base, [one, boast])
    moved = np.abs(model(capped) - model(base)).max()
    assert moved <= 15 * np.abs(flat(one.delta) / 10).max() * 1.01


def test_what_leaves_the_range_of_float32_is_an_error():
    base = unflat([3e38] * flat(contribution(1).delta).size) | zeros()
    update = contribution(2)._replace(delta=unflat([1e7] * model(base).size), steps=1)
    with pytest.raises(WireError) as caught:
        closed(Scaffold(devices=1, learning_rate=1e37), base, [update])
    assert caught.value.code == Rule.NOT_FINITE
