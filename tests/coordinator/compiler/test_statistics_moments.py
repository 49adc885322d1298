"""Mean and variance over a fleet are those of all its examples in one place."""

from pathlib import Path

import numpy as np
import pytest

from tests.coordinator.compiler.gathering import Array, Gathering, shares_of, task

EPSILON = 1e-12
LAST = 2.0**-23  # the last place of float32, relative


def moments(folder: Path, shape: object, batch: int = 7, more: str = "") -> Gathering:
    return Gathering(task(f'kind = "moments"\nshape = {shape}\n{more}', batch=batch), folder)


def drawn(count: int, means: list[float], deviations: list[float], seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    found = np.array(means) + np.array(deviations) * rng.normal(size=(count, len(means)))
    return found.astype(np.float32)


def pooled(*shares: Array) -> tuple[Array, Array]:
    """Mean and variance of all, in double precision."""
    x = np.concatenate(shares).astype(np.float64)
    return x.mean(0), x.var(0)


def test_ordinary_features_are_right_after_one_round(tmp_path: Path) -> None:
    x = drawn(500, [0.0, 1.0, -3.0], [1.0, 2.0, 0.5])
    shares = shares_of(x, 1, 40, 200)
    fleet = moments(tmp_path, [3])
    fleet.round(shares)
    mean, variance = pooled(*shares)
    found = fleet.said(x)
    np.testing.assert_allclose(found["mean"], mean, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["variance"], variance, rtol=1e-4)
    for _ in range(3):
        fleet.round(shares)
        found = fleet.said(x)
        np.testing.assert_allclose(found["mean"], mean, rtol=LAST, atol=1e-7)
        np.testing.assert_allclose(found["variance"], variance, rtol=2e-6)


def test_features_of_any_size_are_right_after_two(tmp_path: Path) -> None:
    """Large and of little variation; beyond what sums take, and squares; tiny; never changing."""
    means = [1e6, -1e6, 1.7e12, 1e-7, 0.0, 273.15]
    deviations = [1.0, 1.0, 1e9, 1e-7, 1e8, 0.0]
    x = drawn(3000, means, deviations)
    shares = shares_of(x, 2, 700)
    fleet = moments(tmp_path, [6], batch=256)
    mean, variance = pooled(*shares)
    for after in (1, 2, 3):
        fleet.round(shares)
        found = fleet.said(x)
        np.testing.assert_allclose(found["mean"], mean, rtol=3e-6, atol=1e-14 + 1e-5 * 1e8)
        if after > 1:
            near = np.sqrt(variance) * 1e-6
            assert (np.abs(found["mean"] - mean) <= LAST * np.abs(mean) + near).all()
            np.testing.assert_allclose(found["variance"][:5], variance[:5], rtol=3e-6)
            assert found["variance"][5] <= 1e-9
    expected = (x.astype(np.float64) - mean) / np.sqrt(variance + EPSILON)
    np.testing.assert_allclose(
        found["standardised"][:, [0, 1, 2, 4]], expected[:, [0, 1, 2, 4]], atol=2e-5
    )


def test_each_round_is_of_its_own_examples_alone(tmp_path: Path) -> None:
    """Nothing of the rounds before is left, however large it was: but for the origin, which takes
    one round to come near, and another to be there."""
    fleet = moments(tmp_path, [2])
    huge = drawn(90, [1e8, -1e7], [1e7, 1.0])
    small = drawn(60, [0.5, 2.0], [0.25, 0.125], seed=1)
    fleet.round(shares_of(huge, 30))
    for _ in range(3):
        fleet.round(shares_of(small, 1, 20))
    mean, variance = pooled(small)
    found = fleet.said(small)
    np.testing.assert_allclose(found["mean"], mean, rtol=LAST)
    np.testing.assert_allclose(found["variance"], variance, rtol=2e-6)


def test_nothing_is_changed_before_the_first_round(tmp_path: Path) -> None:
    x = drawn(10, [3.0, -1.0], [2.0, 1.0])
    fleet = moments(tmp_path, [2])
    found = fleet.said(x)
    np.testing.assert_allclose(found["standardised"], x, rtol=1e-6)
    assert (found["mean"].tolist(), found["variance"].tolist()) == ([0, 0], [1, 1])


def likelihood(x: Array, mean: Array, variance: Array) -> float:
    """-log of the normal density, mean over examples and features."""
    density = np.log(2 * np.pi * variance) + (x.astype(np.float64) - mean) ** 2 / variance
    return float(density.mean() / 2)


def test_the_loss_is_how_unlikely_examples_are(tmp_path: Path) -> None:
    x = drawn(200, [3.0, -1.0], [2.0, 0.1])
    shares = shares_of(x, 1, 50)
    fleet = moments(tmp_path, [2])
    assert fleet.measured(x) == pytest.approx(likelihood(x, np.zeros(2), np.ones(2)), rel=1e-5)
    assert fleet.round(shares) == pytest.approx(likelihood(x, np.zeros(2), np.ones(2)), rel=1e-5)
    fleet.round(shares)
    mean, variance = pooled(x)
    best = likelihood(x, mean, variance)
    assert fleet.measured(x) == pytest.approx(best, rel=1e-4)
    assert fleet.round(shares) == pytest.approx(best, rel=1e-4)  # of the model it started from


@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_examples_of_any_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(5.0, 2.0, size=(50, *shape)).astype(np.float32)
    fleet = moments(tmp_path, list(shape))
    for _ in range(2):
        fleet.round(shares_of(x, 20))
    found, (mean, variance) = fleet.said(x), pooled(x)
    assert found["mean"].shape == found["variance"].shape == shape
    assert found["standardised"].shape == x.shape
    np.testing.assert_allclose(found["mean"], mean, rtol=LAST)
    np.testing.assert_allclose(found["variance"], variance, rtol=2e-6)


def test_epsilon_holds_features_that_never_change(tmp_path: Path) -> None:
    fleet = moments(tmp_path, [1], more="epsilon = 0.25")
    x = np.full((8, 1), 3.0, np.float32)
    for _ in range(2):
        fleet.round([x[:1], x[1:]])
    assert fleet.said(x + 1)["standardised"].tolist() == [[2.0]] * 8
