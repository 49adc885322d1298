"""What an update counts for: capped, scaled, and the same on every machine."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation import Contribution, FedAvg, FedNova, Median, aggregator
from coordinator.aggregation.layout import Layout
from coordinator.aggregation.recipe import (
    EFFECT,
    clip_factor,
    coarse,
    local_effect,
    norm_of,
    staleness_factor,
)
from tests.coordinator.aggregation.samples import (
    PARAMETERS,
    SIZE,
    contribution,
    flat,
    total_of,
    unflat,
)
from wire.errors import Rule, WireError

LAYOUT = Layout(PARAMETERS, 8)


def test_staleness_by_hand():
    assert [staleness_factor(s, 0.5) for s in (0, 3, 15)] == [1.0, 0.5, 0.25]
    assert [staleness_factor(s, 1.0) for s in (0, 1, 3)] == [1.0, 0.5, 0.25]
    assert staleness_factor(7, 0.0) == 1.0
    assert staleness_factor(10**6, 100.0) == 0.0


@given(st.floats(1e-300, 1e300))
def test_coarse_numbers_have_16_bits_and_the_last_bits_do_not_matter(value):
    found = coarse(value)
    assert found == pytest.approx(value, rel=2**-16)
    assert math.ldexp(math.frexp(found)[0], 16).is_integer()
    assert coarse(value, math.floor) <= value


def test_the_norm_is_that_of_the_whole_vector():
    update = contribution(4, size=3.0)
    exact = math.sqrt(math.fsum(float(v) ** 2 for v in flat(update.delta)))
    assert norm_of(update.delta, LAYOUT) == pytest.approx(exact, rel=1e-15)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_change_is_scaled_down_to_the_bound_and_never_up(size, most):
    delta = contribution(2, size=size).delta
    norm, factor = norm_of(delta, LAYOUT), clip_factor(delta, LAYOUT, most)
    if norm <= most:
        assert factor == 1.0
    else:
        assert most * (1 - 2**-14) <= norm * factor <= most


def test_norm_bounding_by_hand():
    values = [0.0] * SIZE
    values[0], values[-1] = 3.0, -4.0  # a norm of 5
    mean = total_of([Contribution(unflat(values), 7, 1, 0)], FedAvg(max_norm=2.5)).mean()
    assert (mean[0], mean[-1]) == (1.5, -2.0)


def test_the_effect_of_local_steps():
    assert local_effect(7, 0.0) == 7.0
    # Momentum 1/2, three steps: the gradients are applied 1 + 1/2 + 1/4, 1 + 1/2 and 1 times.
    assert local_effect(3, 0.5) == 1.75 + 1.5 + 1.0
    assert local_effect(1, 0.9) == pytest.approx(1.0, rel=1e-4)


def test_fednova_by_hand():
    """Two devices of equal weight, one made 1 step and one 3, all steps alike: the mean number
    of steps, 2, is what the model moves by."""
    updates = [Contribution(unflat([1.0 * steps] * SIZE), 10, steps, 0) for steps in (1, 3)]
    strategy = aggregator(FedNova(), PARAMETERS)
    total = strategy.empty()
    total.add_all(updates)
    found = strategy.close(unflat([0.0] * SIZE), None, total)
    np.testing.assert_allclose(flat(found.weights), 2.0, rtol=1e-6)


def test_fednova_of_devices_that_do_the_same_is_fedavg_with_momentum_too():
    updates = [contribution(number, steps=36) for number in (1, 2)]
    found = []
    for options in (FedNova(momentum=0.9), FedAvg()):
        strategy = aggregator(options, PARAMETERS)
        total = strategy.empty()
        total.add_all(updates)
        found.append(flat(strategy.close(unflat([0.0] * SIZE), None, total).weights))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_fednova_takes_no_more_steps_than_allowed():
    strategy = aggregator(FedNova(max_steps=10), PARAMETERS)
    total = strategy.empty()
    total.add_all([contribution(1, steps=1 << 40), contribution(2, steps=10)])
    assert total.work == EFFECT * (10 * 10 + 10 * 10)


def test_an_absurd_change_is_refused_one_of_nothing_is_not():
    for options in (FedAvg(), Median()):
        check = aggregator(options, PARAMETERS).check
        check(contribution(1))
        check(contribution(1, size=1e-30))
        check(contribution(1, size=0.0))
        for value, rule in [
            (2.0**39, Rule.TOO_FAR),
            (-3e38, Rule.TOO_FAR),
            (math.nan, Rule.NOT_FINITE),
            (-math.inf, Rule.NOT_FINITE),
        ]:
            values = np.zeros(SIZE)
            values[-1] = value
            with pytest.raises(WireError) as refused:
                check(Contribution(unflat(values), 1, 1, 0))
            assert refused.value.code is rule


@given(st.integers(1, 1 << 31), st.integers(1, 80), st.booleans())
def test_the_check_passes_what_can_be_summed_and_nothing_else(examples, power, uniform):
    options = FedAvg(by="uniform" if uniform else "examples", max_examples=1 << 31)
    strategy = aggregator(options, PARAMETERS)
    update = Contribution(unflat([2.0**power] * SIZE), examples, 1, 0)
    if 2.0**power * (1 if uniform else examples) <= 2.0**38:
        strategy.check(update)
        strategy.empty().add(update)
        return
    for refuse in (strategy.check, strategy.empty().add):
        with pytest.raises(WireError) as refused:
            refuse(update)
        assert refused.value.code is Rule.TOO_FAR


@pytest.mark.parametrize("broken", [{"examples": 0}, {"steps": 0}, {"staleness": -1}])
def test_what_the_wire_cannot_carry_is_an_error(broken):
    with pytest.raises(ValueError, match="not an update"):
        aggregator(FedAvg(), PARAMETERS).check(contribution(1, **broken))
