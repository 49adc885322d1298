"""The running sum: FedAvg to the last bit, in the memory of one model."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.aggregation import RunningSum
from tests.coordinator.plans import PARAMETERS, constant, weights
from wire.errors import Rule, WireError
from wire.plan import Parameter


@settings(max_examples=100)
@given(
    examples=st.lists(st.integers(1, 1 << 31), min_size=1, max_size=12),
    cap=st.sampled_from([1, 100, 1_000_000, 1 << 31]),
    seed=st.integers(0, 1000),
)
def test_it_is_the_mean_weighted_by_capped_examples(examples: list[int], cap: int, seed: int):
    total, base = RunningSum(PARAMETERS, cap), weights(seed=seed)
    deltas = [weights(seed=seed + 1 + k) for k in range(len(examples))]
    for delta, count in zip(deltas, examples, strict=True):
        total.add(delta, count)
    shares = np.minimum(np.array(examples, np.float64), cap)
    new = total.apply(base)
    for name, start in base.items():
        mean = np.tensordot(shares, np.stack([d[name] for d in deltas]).astype(np.float64), 1)
        expected = (start + mean / shares.sum()).astype(np.float32)
        np.testing.assert_allclose(new[name], expected, rtol=1e-6, atol=1e-9)
        assert new[name].dtype == np.float32
    assert total.updates == len(examples)
    assert total.weight == shares.sum()


@given(st.permutations(range(6)), st.sampled_from([1.0, 1e-6, 1e30]))
def test_the_mean_is_the_same_in_any_order(order: list[int], scale: float):
    def mean_of(numbers: list[int]) -> dict[str, np.ndarray]:
        total = RunningSum(PARAMETERS, 1000)
        for k in numbers:
            total.add({n: v * np.float32(scale) for n, v in weights(seed=k).items()}, 10**k)
        return total.apply(constant(0.0))

    found, expected = mean_of(order), mean_of(list(range(6)))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6)


def test_small_updates_are_not_lost_in_a_large_round():
    total = RunningSum(PARAMETERS, 1 << 31)
    total.add(constant(1.0), 1 << 31)
    for _ in range(1000):
        total.add(constant(1.0), 1)
    np.testing.assert_array_equal(total.apply(constant(0.0))["w"], np.ones((4, 3), np.float32))


def test_its_memory_does_not_grow_with_the_updates():
    parameters = (Parameter(name="w", shape=(100_000,)),)
    total, delta = RunningSum(parameters, 100), constant(1.0, parameters)
    total.add(delta, 10)
    tracemalloc.start()
    for _ in range(5):
        total.add(delta, 10)
    _, peak_of_five = tracemalloc.get_traced_memory()
    for _ in range(200):
        total.add(delta, 10)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 10_000
    assert peak <= peak_of_five + 10_000
    assert peak < 1.1 * 8 * 100_000  # one temporary of one tensor


def test_adding_leaves_the_delta_and_applying_the_sum_as_they_were():
    total, delta, base = RunningSum(PARAMETERS, 100), constant(0.5), constant(1.0)
    total.add(delta, 10)
    first = total.apply(base)
    second = total.apply(base)
    np.testing.assert_array_equal(first["w"], second["w"])
    np.testing.assert_array_equal(delta["w"], constant(0.5)["w"])
    np.testing.assert_array_equal(base["w"], constant(1.0)["w"])


def test_a_result_out_of_range_is_refused():
    total = RunningSum(PARAMETERS, 100)
    total.add(constant(3e38), 10)
    with pytest.raises(WireError) as refused:
        total.apply(constant(3e38))
    assert refused.value.code is Rule.NOT_FINITE
