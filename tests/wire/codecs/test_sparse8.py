"""sparse8: which weights are sent and as what, and coded forms that no encoder makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.codecs.samples import (
    LARGEST,
    SMALLEST,
    decoded,
    is_sound,
    there_and_back,
    vector,
)
from wire.codecs.sparse8 import Sparse8
from wire.errors import Rule, WireError


def chances(values):
    """p = min(1, |x| / c) that add up to one in eight; c found by halving, not by sorting."""
    sizes, taken = np.abs(values).astype(np.float64), -(-values.size // 8)
    low, high = 0.0, sizes.sum()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.minimum(sizes / middle, 1).sum() > taken else (low, middle)
    return np.minimum(sizes / high, 1), high


@given(st.integers(513, 2000), st.integers(0, 1 << 32))
def test_just_one_weight_in_eight_is_sent(size, seed):
    values = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    assert np.count_nonzero(decoded("sparse8", values, seed)) == -(-size // 8)


def test_a_weight_is_sent_as_its_sign_times_the_threshold_or_what_it_is_beyond():
    values = (np.random.default_rng(2).standard_normal(4000) ** 3).astype(np.float32)
    expected, threshold = chances(values)
    assert (expected == 1).any()
    coded, found = there_and_back("sparse8", vector(4000), {"w": values})
    few = found.few_of_all()
    at, sent = few.indices[few.values != 0], few.values[few.values != 0]
    exact = np.sign(values[at]) * np.maximum(np.abs(values[at]), threshold)
    np.testing.assert_allclose(coded["base"], threshold, rtol=1e-6)
    assert np.abs(sent - exact).max() <= float(coded["unit"]) * (1 + 1e-5)
    signs = np.abs(values[at]) < threshold
    np.testing.assert_allclose(sent[signs], exact[signs], rtol=1e-6)
    assert np.isin(np.flatnonzero(expected == 1), at).all()


def test_levels_are_unbiased_and_their_variance_is_bounded():
    """Told apart from the sampling by a model so small that all of it is sent."""
    values = np.random.default_rng(2).standard_normal(64).astype(np.float32)
    found = np.stack([decoded("sparse8", values, seed) for seed in range(2000)])
    errors = found.astype(np.float64) - values
    unit = (np.abs(values).max() - np.abs(values).min()) / 255
    assert np.abs(errors.mean(axis=0)).max() < 5 * unit / 2 / 2000**0.5
    assert errors.var(axis=0).max() <= unit**2 / 4 * 1.01


def test_the_variance_is_that_of_the_best_sampling_and_half_that_of_a_mask():
    values = np.random.default_rng(2).standard_normal(2000).astype(np.float32)
    expected, _ = chances(values)
    best = (values.astype(np.float64) ** 2 * (1 / expected - 1)).sum()
    errors = {
        codec: np.mean(
            [((decoded(codec, values, seed) - values) ** 2).sum() for seed in range(300)]
        )
        for codec in ("sparse8", "mask8")
    }
    np.testing.assert_allclose(errors["sparse8"], best, rtol=0.01)
    assert 1.4 < errors["mask8"] / errors["sparse8"] < 2.2


def test_a_giant_among_them_leaves_the_others_their_chance():
    """Differences of sums as large as the giant would be noise."""
    values = np.full(1000, 1e-3, np.float32)
    values[500] = 1e30
    found = [np.flatnonzero(decoded("sparse8", values, seed)) for seed in range(30)]
    assert all(500 in at and at.size == 125 for at in found)
    assert np.unique(np.concatenate(found)).size > 900


@pytest.mark.parametrize("size", [65, 1281, 5000])
def test_of_few_changes_all_are_sent(size):
    values = np.zeros(size, np.float32)
    values[[3, size // 2, size - 1]] = [1.0, -2.0, 127.0]
    found = decoded("sparse8", values)
    assert np.abs(found - values).max() <= 126 / 255
    assert (np.flatnonzero(found) == [3, size // 2, size - 1]).all()


@given(st.lists(st.integers(0, 254), max_size=9, unique=True), st.integers(1, 12))
def test_gaps_that_are_wider_than_a_step_take_several(ends, wide):
    values = np.zeros((wide, 255), np.float32)
    values[-1, ends] = -127.0
    values = values.reshape(-1)
    np.testing.assert_array_equal(decoded("sparse8", values), values)


@pytest.mark.parametrize("gap", [1, 14, 15, 16, 29, 30, 31, 45, 46])
def test_a_gap_of_any_width_is_told(gap):
    values = np.zeros(64 * gap, np.float32)
    values[gap - 1 :: gap] = 1.0
    coded, found = there_and_back("sparse8", vector(values.size), {"w": values})
    np.testing.assert_array_equal(found["w"], values)
    assert coded["count"] == 64 * -(-gap // 15)


@pytest.mark.parametrize("spread", [1, 2, 100, 126, 254, 255, 256, 300, 1 << 20])
def test_it_is_less_than_one_step_off_for_the_smallest_floats(spread):
    values = np.array([1, 1 + spread, -1 - spread // 2], np.float64) * SMALLEST
    coded, found = there_and_back("sparse8", vector(3), {"w": values.astype(np.float32)})
    error = np.abs(found["w"].astype(np.float64) - values)
    assert (error <= float(coded["unit"])).all()
    if spread < 256:
        assert not error.any()


# What no encoder makes


def coded(size=3, **changes):
    """A coded form, with `changes`: by default of three ones."""
    made = Sparse8().encode({"w": np.ones(size, np.float32)}, np.random.default_rng(1))
    for name, value in changes.items():
        made[name] = np.asarray(value, made[name].dtype)
    return made


@pytest.mark.parametrize("count", [-1, -(1 << 31), 4, (1 << 31) - 1])
def test_a_number_of_steps_that_cannot_be_is_refused(count):
    with pytest.raises(WireError, match="steps, of 3 at most") as caught:
        Sparse8().decode(coded(count=count), vector(3))
    assert caught.value.code == Rule.BAD_FORMAT


@pytest.mark.parametrize("name", ["base", "unit"])
@pytest.mark.parametrize(
    ("value", "rule"),
    [
        *[(value, Rule.BAD_FORMAT) for value in (-1.0, -SMALLEST, np.nan)],
        *[(value, Rule.NOT_FINITE) for value in (np.inf, LARGEST)],
    ],
)
def test_values_that_no_encoder_makes_are_refused(name, value, rule):
    with pytest.raises(WireError) as caught:
        Sparse8().decode(coded(**{name: value}), vector(3))
    assert caught.value.code == rule


@pytest.mark.parametrize("step", [[0x01, 0], [0x10, 0], [0, 0x01], [0x0F, 0], [0xFF, 0xFF]])
def test_steps_beyond_the_last_weight_are_refused(step):
    with pytest.raises(WireError, match="the last step ends at weight") as caught:
        Sparse8().decode(coded(step=step), vector(3))
    assert caught.value.code == Rule.BAD_FORMAT


@pytest.mark.parametrize(
    "changes",
    [
        {"level": [0, 1, 0]},
        {"level": [0, 0, 1]},
        {"step": [0, 1]},
        {"count": 0, "sign": [1]},
        {"count": 0, "step": [1, 0]},
    ],
)
def test_something_after_the_last_step_is_refused(changes):
    with pytest.raises(WireError, match="follows the last step") as caught:
        Sparse8().decode(coded(**{"count": 1} | changes), vector(3))
    assert caught.value.code == Rule.BAD_FORMAT


def test_a_step_that_ends_at_no_weight_changes_none():
    """Whatever sign and level are told for it."""
    made = coded(128, count=3, step=np.zeros(36), level=np.zeros(72), sign=np.zeros(9))
    made["step"][:2] = [0x2F, 0x0F]  # 15 on, 15 on, and 3 on
    made["level"][:3] = [200, 255, 1]
    made["sign"][0] = 0b11100000
    made["unit"] = np.asarray(0.5, "<f4")
    found = Sparse8().decode(made, vector(128))
    is_sound(found, vector(128))
    assert np.flatnonzero(found["w"]).tolist() == [32]
    assert found["w"][32] == -2.5


@given(
    size=st.integers(0, 400),
    count=st.integers(-1, 100),
    kind=st.sampled_from(["small", "any", "skips"]),
    base=st.sampled_from([0.0, -0.0, 1e-45, 1.0, LARGEST / 2, LARGEST]),
    unit=st.sampled_from([0.0, 1e-45, 1.0, LARGEST / 512, LARGEST / 255]),
    seed=st.integers(0, 1 << 32),
)
def test_any_coded_form_is_refused_or_sound(size, count, kind, base, unit, seed):
    rng = np.random.default_rng(seed)
    made = {}
    for name, spec in Sparse8().schema(vector(size)).items():
        made[name] = np.zeros(spec.shape, spec.dtype)
    used = {"level": count, "step": -(-count // 2), "sign": -(-count // 8)}
    for name, room in used.items():
        stretch = made[name][: max(room, 0)]
        stretch[:] = rng.integers(0, 256, stretch.size)
    made["step"] &= {"small": 0x11, "any": 0xFF, "skips": 0xFF}[kind]
    if kind == "skips":
        made["step"] |= rng.choice(np.array([0x0F, 0xF0, 0], "u1"), made["step"].size)
        made["step"][max(used["step"], 0) :] = 0
    made |= {
        "base": np.asarray(base, "<f4"),
        "count": np.asarray(count, "<i4"),
        "unit": np.asarray(unit, "<f4"),
    }
    try:
        found = Sparse8().decode(made, vector(size))
    except WireError:
        return
    is_sound(found, vector(size))
    assert (np.diff(found.few_of_all().indices) > 0).all()
