"""Codecs: what comes back, how far off it may be, and coded forms that no encoder makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.samples import deltas
from wire.codecs import CODECS, codec_named
from wire.errors import Rule, WireError
from wire.plan import Parameter
from wire.tensors import Spec

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = 2.0**-149  # the smallest subnormal float32
W = (Parameter(name="w", shape=(3,)),)


def there_and_back(codec, parameters, delta, seed=7):
    coder = codec_named(codec)
    coded = coder.encode(delta, np.random.default_rng(seed))
    little = {n: a.astype(a.dtype.newbyteorder("<")) for n, a in coded.items()}
    assert {n: Spec(a.dtype, a.shape) for n, a in little.items()} == coder.schema(parameters)
    return coded, coder.decode(little, parameters)


@pytest.mark.parametrize("codec", CODECS)
@given(example=deltas(limit=60_000))
def test_every_codec_keeps_names_shapes_and_finiteness(codec, example):
    parameters, delta = example
    _, found = there_and_back(codec, parameters, delta)
    assert found.keys() == delta.keys()
    for name, values in found.items():
        assert isinstance(values, np.ndarray)
        assert values.dtype == np.float32
        assert values.shape == delta[name].shape
        assert np.isfinite(values).all()


def test_sparse8_is_unbiased_and_sends_one_weight_in_eight():
    rng = np.random.default_rng(5)
    exact = {"b": rng.standard_normal(40), "a": rng.standard_normal((60, 50)) ** 3}
    delta = {name: values.astype(np.float32) for name, values in exact.items()}
    parameters = tuple(Parameter(name=name, shape=v.shape) for name, v in delta.items())
    total = {name: np.zeros(values.shape) for name, values in delta.items()}
    times = 2000
    for seed in range(times):
        coded, found = there_and_back("sparse8", parameters, delta, seed)
        assert coded["gap"].shape == (380 + 3040 // 255,)
        for name in total:
            total[name] += found[name]
    # A weight's value is c or nothing, c the threshold: its mean over so many is off by less.
    threshold = max(float(np.abs(values).sum()) for values in exact.values()) / 380
    for name, values in total.items():
        assert np.abs(values / times - delta[name]).max() < 6 * threshold / times**0.5


@given(deltas(limit=60_000))
def test_sparse8_of_a_small_model_is_int8(example):
    parameters, delta = example
    if sum(p.size for p in parameters) > 64:
        return
    coded, found = there_and_back("sparse8", parameters, delta)
    for name, values in found.items():
        assert np.abs(values.astype(np.float64) - delta[name]).max(initial=0) <= (
            float(coded["scale/kept"]) * (1 + 1e-5)
        )


@pytest.mark.parametrize("size", [65, 1281, 5000])
def test_sparse8_of_few_changes_has_them_all(size):
    delta = {"w": np.zeros(size, np.float32)}
    delta["w"][[3, size // 2, size - 1]] = [1.0, -2.0, 127.0]
    _, found = there_and_back("sparse8", (Parameter(name="w", shape=(size,)),), delta)
    assert np.abs(found["w"] - delta["w"]).max() <= 1.0
    assert np.flatnonzero(found["w"]).size <= 3


@given(st.lists(st.integers(0, 254), max_size=9, unique=True), st.integers(1, 12))
def test_sparse8_breaks_gaps_that_are_wider_than_a_byte(ends, wide):
    delta = {"w": np.zeros((wide, 255), np.float32)}
    delta["w"][-1, ends] = 127.0
    coded, found = there_and_back("sparse8", (Parameter(name="w", shape=(wide, 255)),), delta)
    np.testing.assert_array_equal(found["w"], delta["w"])
    whole = codec_named("sparse8").decode(coded, (Parameter(name="w", shape=(wide, 255)),))
    few = whole.few_of_all()
    flat = np.zeros(wide * 255, np.float32)
    np.add.at(flat, few.indices, few.values)
    np.testing.assert_array_equal(flat, delta["w"].reshape(-1))


@pytest.mark.parametrize(
    ("gaps", "scale"),
    [
        *[([1, 0, 1], 1.0), ([0, 1, 1], 1.0), ([2, 1, 1], 1.0), ([1, 1, 1], -1.0)],
        ([1, 1, 0], 1.0),  # a value, but no place for it
    ],
)
def test_sparse8_refuses_what_no_encoder_makes(gaps, scale):
    coded = codec_named("sparse8").encode({"w": np.ones(3, np.float32)}, np.random.default_rng(1))
    coded["gap"] = np.array(gaps, "u1")
    coded["scale/kept"] = np.asarray(scale, "<f4")
    with pytest.raises(WireError) as caught:
        codec_named("sparse8").decode(coded, W)
    assert caught.value.code == Rule.BAD_FORMAT


def test_sparse8_refuses_gaps_that_run_over():
    coded = codec_named("sparse8").encode({"w": np.ones(3, np.float32)}, np.random.default_rng(1))
    coded["gap"] = np.full(3, 255, "u1")
    with pytest.raises(WireError, match="beyond the last"):
        codec_named("sparse8").decode(coded, W)


@given(deltas())
def test_float32_is_exact(example):
    parameters, delta = example
    _, found = there_and_back("float32", parameters, delta)
    for name, values in found.items():
        assert np.array_equal(values, delta[name])


@given(deltas(limit=65_504))
def test_float16_is_within_its_bound(example):
    parameters, delta = example
    _, found = there_and_back("float16", parameters, delta)
    for name, values in found.items():
        exact = delta[name].astype(np.float64)
        bound = np.where(np.abs(exact) >= 2.0**-14, np.abs(exact) * 2.0**-11, 2.0**-25)
        assert (np.abs(values - exact) <= bound).all()


@pytest.mark.parametrize("value", [65_520.0, -1e30, LARGEST])
def test_float16_refuses_what_is_out_of_its_range(value):
    with pytest.raises(WireError, match="changed by more than 65504") as caught:
        codec_named("float16").encode(
            {"w": np.array([0, 1, value], np.float32)}, np.random.default_rng(7)
        )
    assert caught.value.code == Rule.NOT_FINITE


@given(deltas(limit=1e37), st.integers(0, 1 << 32))
def test_int8_is_less_than_one_scale_off(example, seed):
    parameters, delta = example
    coded, found = there_and_back("int8", parameters, delta, seed)
    for name, values in found.items():
        scale = float(coded[f"scale/{name}"])
        error = np.abs(values - delta[name].astype(np.float64))
        assert (error <= scale * (1 + 1e-5)).all()


@pytest.mark.parametrize("size", [1, 2, 100, 126, 127, 128, 190, 254, 1 << 20])
def test_int8_is_less_than_one_scale_off_for_the_smallest_floats(size):
    delta = {"w": np.array([0, size * SMALLEST, -size * SMALLEST / 2], np.float32)}
    coded, found = there_and_back("int8", W, delta)
    error = np.abs(found["w"].astype(np.float64) - delta["w"])
    assert (error <= float(coded["scale/w"]) * (1 + 1e-5)).all()


def test_int8_is_unbiased_and_its_variance_is_bounded():
    rng = np.random.default_rng(7)
    values = rng.normal(size=500).astype(np.float32)
    parameters = (Parameter(name="w", shape=(500,)),)
    scale = np.abs(values).max() / 127
    times = 2000
    coder = codec_named("int8")
    errors = np.stack(
        [
            coder.decode(coder.encode({"w": values}, rng), parameters)["w"] - values
            for _ in range(times)
        ]
    ).astype(np.float64)
    # The standard deviation of a mean of errors is at most scale / 2 / sqrt(times).
    assert np.abs(errors.mean(axis=0)).max() < 5 * scale / 2 / np.sqrt(times)
    assert abs(errors.mean()) < 5 * scale / 2 / np.sqrt(errors.size)
    assert errors.var(axis=0).max() <= scale**2 / 4 * 1.01


def test_int8_of_nothing_but_zeros_is_exact():
    _, found = there_and_back("int8", W, {"w": np.zeros(3, np.float32)})
    assert not found["w"].any()


def test_int8_refuses_what_is_out_of_its_range():
    there_and_back("int8", W, {"w": np.array([0, 1, LARGEST * 126 / 128], np.float32)})
    with pytest.raises(WireError, match="scale of 'w'") as caught:
        codec_named("int8").encode(
            {"w": np.array([0, 1, LARGEST], np.float32)}, np.random.default_rng(7)
        )
    assert caught.value.code == Rule.NOT_FINITE


@pytest.mark.parametrize(
    ("scale", "rule"),
    [(-1.0, Rule.BAD_FORMAT), (LARGEST, Rule.NOT_FINITE), (1e37, Rule.NOT_FINITE)],
)
def test_int8_refuses_a_scale_that_no_encoder_makes(scale, rule):
    coded = {"q/w": np.array([-128, 1, 2], "i1"), "scale/w": np.array(scale, "<f4")}
    with pytest.raises(WireError) as caught:
        codec_named("int8").decode(coded, W)
    assert caught.value.code == rule


def test_an_unknown_codec_is_an_error_that_lists_those_known():
    with pytest.raises(
        WireError, match="no codec 'zip'; known: float32, float16, int8, sparse8"
    ) as caught:
        codec_named("zip")
    assert caught.value.code == Rule.WRONG_CODEC
