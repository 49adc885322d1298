"""What both codecs that send one weight in eight have in common."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.codecs.samples import LARGEST, SMALLEST, decoded, is_sound, there_and_back, vector
from tests.wire.samples import deltas, header
from wire import update
from wire.errors import Rule, WireError
from wire.plan import Parameter

SAMPLED = ("sparse8", "mask8")
pytestmark = pytest.mark.parametrize("codec", SAMPLED)
SHAPES = (("b", (40,)), ("a", (60, 50)), ("none", (0, 3)), ("one", ()))
PARAMETERS = tuple(Parameter(name=name, shape=shape) for name, shape in SHAPES)


@given(example=deltas(limit=60_000), seed=st.integers(0, 1 << 32))
def test_however_it_is_asked_for_the_delta_is_the_same(codec, example, seed):
    parameters, delta = example
    is_sound(there_and_back(codec, parameters, delta, seed)[1], parameters)


@pytest.mark.parametrize("changed", [0.001, 0.1, 1.0])
def test_a_larger_model_is_the_same_however_it_is_asked_for(codec, changed):
    rng = np.random.default_rng(11)
    delta = {
        p.name: (rng.standard_normal(p.shape) * (rng.random(p.shape) < changed)).astype(np.float32)
        for p in PARAMETERS
    }
    is_sound(there_and_back(codec, PARAMETERS, delta)[1], PARAMETERS)


def test_the_mean_of_many_is_the_delta(codec):
    rng = np.random.default_rng(5)
    delta = {p.name: (rng.standard_normal(p.shape) ** 3).astype(np.float32) for p in PARAMETERS}
    total = {name: np.zeros(values.shape) for name, values in delta.items()}
    times = 2000
    for seed in range(times):
        found = there_and_back(codec, PARAMETERS, delta, seed)[1]
        for name in total:
            total[name] += found[name]
    # A weight's variance: at most c |x| for sparse8, 7 x^2 for mask8; rounding adds little.
    taken = -(-3041 // 8)
    threshold = sum(float(np.abs(values).sum()) for values in delta.values()) / taken
    unit = 8 * max(float(np.abs(values).max(initial=0)) for values in delta.values()) / 127
    for name, values in total.items():
        size = np.abs(delta[name])
        variance = threshold * size if codec == "sparse8" else 7 * size**2
        spread = np.sqrt((variance + unit**2 / 4) / times)
        assert (np.abs(values / times - delta[name]) < 6 * spread).all()


@given(
    size=st.integers(1, 64),
    scale=st.sampled_from([1e-44, 1e-6, 1.0, 1e30]),
    seed=st.integers(0, 1 << 32),
)
def test_a_small_model_is_sent_whole(codec, size, scale, seed):
    values = (np.random.default_rng(seed).standard_normal(size) * scale).astype(np.float32)
    found = decoded(codec, values, seed)
    step = float(np.abs(values).max()) / 127
    assert np.abs(found.astype(np.float64) - values).max() <= max(step * (1 + 1e-5), SMALLEST)


@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 1000])
def test_no_change_is_coded_exactly(codec, size):
    found = there_and_back(codec, vector(size), {"w": np.zeros(size, np.float32)})[1]
    assert not found["w"].any()
    assert found.bound("w") == 0
    is_sound(found, vector(size))


@pytest.mark.parametrize("size", [1, 64, 65, 1000])
@pytest.mark.parametrize("value", [SMALLEST, -3 * SMALLEST, 2.0**-126, -1.0, 1e37])
def test_every_weight_the_same_is_sent_as_one_value(codec, size, value):
    found = decoded(codec, np.full(size, value, np.float32))
    taken = min(size, max(64, -(-size // 8)))
    sent = found[found != 0].astype(np.float64)
    assert sent.size == taken
    # Twice the step of the smallest numbers: what is coded may be rounded, and what was multiplied.
    assert np.abs(sent - value * size / taken).max() <= max(abs(sent[0]) / 120, 2 * SMALLEST * 8)


@pytest.mark.parametrize("size", [64, 65, 1000])
@pytest.mark.parametrize("few", [1, 3, 64])
def test_values_that_leave_float32_are_refused(codec, size, few):
    """Never sent as infinite, or NaN: the device would be told that its update is damaged."""
    values = np.ones(size, np.float32)
    values[-few:] = LARGEST
    # The first of these masks may miss them.
    with pytest.raises(WireError) as caught:
        _ = [decoded(codec, values, seed) for seed in range(40)]
    assert caught.value.code == Rule.NOT_FINITE


@pytest.mark.parametrize("size", [65, 1000])
def test_a_model_of_the_largest_values_is_refused(codec, size):
    """All that would be sent are infinite, and so their differences are NaN."""
    for value in (LARGEST, -LARGEST, 1e38):
        with pytest.raises(WireError) as caught:
            decoded(codec, np.full(size + 600, value, np.float32))
        assert caught.value.code == Rule.NOT_FINITE


@given(
    size=st.integers(0, 300),
    powers=st.tuples(st.integers(-149, 127), st.integers(-149, 127)),
    seed=st.integers(0, 1 << 32),
)
def test_it_is_finite_or_refused_whatever_the_sizes(codec, size, powers, seed):
    rng = np.random.default_rng(seed)
    exponents = rng.integers(min(powers), max(powers) + 1, size)
    values = np.ldexp(rng.choice([-1.0, 0.0, 1.0, 1.9], size), exponents).astype(np.float32)
    try:
        found = there_and_back(codec, vector(size), {"w": values}, seed)[1]
    except WireError:
        assert np.abs(values).max() > 2.0**100
    else:
        is_sound(found, vector(size))
        assert (found["w"] * np.sign(values) >= 0).all()


def test_two_threads_may_ask_for_it_together(codec):
    """A large model's blocks are summed by two."""
    size = 1_000_003
    values = np.random.default_rng(3).standard_normal(size).astype(np.float32)
    delta = there_and_back(codec, vector(size), {"w": values})[1]
    both = Barrier(2, timeout=30)

    def ask(start):
        both.wait()
        room = np.empty(1000, np.float32)
        return start, delta.stretch("w", start, start + 1000, room)

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(ask, (0, size - 1000)))
    for start, stretch in found:
        np.testing.assert_array_equal(stretch, delta["w"][start : start + 1000])


def test_its_wire_form_is_a_tenth_of_a_byte_a_weight(codec):
    rng = np.random.default_rng(3)
    parameters = vector(100_000)
    delta = {"w": (rng.standard_normal(100_000) * 0.01).astype(np.float32)}
    data = update.write(header(codec), delta, rng)
    assert len(data) < 100_000 * (0.085 if codec == "sparse8" else 0.125)
    is_sound(update.read(data, parameters, codec).delta, parameters)
