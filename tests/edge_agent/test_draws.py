"""The random numbers that a plan's training takes."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.draws import drawn
from edge_agent.session import BadPlan, Trainer, train
from tests.edge_agent.plans import DROPOUT, flowers, manifest_of, weights_of
from wire.errors import WireError
from wire.plan import Draw, parse_manifest

SEEDS = st.integers(0, (1 << 63) - 1)  # as an assignment has them
STEPS = st.integers(0, 1 << 40)
TWO = (Draw(name="a", shape=(3,)), Draw(name="b", shape=(2, 2)))


def trainer_of(seed: int, steps: int = 0) -> Trainer:
    manifest = manifest_of(DROPOUT)
    return Trainer(manifest, DROPOUT, weights_of(DROPOUT), 1, steps=steps, seed=seed)


# Numbers


@given(seed=SEEDS, step=STEPS, batch=st.integers(1, 5))
def test_they_are_of_their_shapes_and_from_0_to_below_1(seed, step, batch):
    found = drawn(TWO, seed, step, batch)
    assert {n: (a.dtype, a.shape) for n, a in found.items()} == {
        "a": (np.float32, (batch, 3)),
        "b": (np.float32, (batch, 2, 2)),
    }
    for numbers in found.values():
        assert numbers.min() >= 0
        assert numbers.max() < 1


@given(seed=SEEDS, step=STEPS)
def test_the_same_seed_and_step_are_the_same_numbers(seed, step):
    one, other = drawn(TWO, seed, step, 4), drawn(TWO, seed, step, 4)
    for name, numbers in one.items():
        np.testing.assert_array_equal(numbers, other[name])


@given(one=st.tuples(SEEDS, STEPS), other=st.tuples(SEEDS, STEPS), small=st.integers(0, 3))
def test_others_are_others(one, other, small):
    for a, b in ((one, other), (one, (one[0], other[1])), ((small, 0), (0, small))):
        if a != b:
            first, second = drawn(TWO, *a, 4)["a"], drawn(TWO, *b, 4)["a"]
            assert not np.array_equal(first, second)


def test_they_are_not_those_of_the_shuffling():
    """Whose generator begins with the seed alone, which is as good as with zeros after it."""
    draw = (Draw(name="a", shape=(8,)),)
    for step in range(3):
        found = drawn(draw, 5, step, 1)["a"]
        assert not np.array_equal(found[0], np.random.default_rng(5).random(8, np.float32))


def test_they_are_pinned():
    """Another numpy that drew otherwise would break trainings that go on on it."""
    found = drawn((Draw(name="a", shape=(3,)),), seed=7, step=11, batch=1)["a"]
    np.testing.assert_array_equal(found, np.float32([[0.77109492, 0.62199229, 0.46256137]]))


def test_they_are_uniform():
    found = drawn((Draw(name="a", shape=(1000,)),), 1, 0, 100)["a"]
    counts, _ = np.histogram(found, bins=50, range=(0, 1))
    assert ((counts - 2000) ** 2 / 2000).sum() < 95  # of chi-square with 49, once in 10,000
    assert abs(np.corrcoef(found[:-1].ravel(), found[1:].ravel())[0, 1]) < 0.015
    for ratio in (0.1, 0.5, 0.9):
        assert abs((found >= ratio).mean() - (1 - ratio)) < 0.006


# Training


def batch():
    return flowers(10)


def test_a_step_s_numbers_depend_on_the_seed_and_on_its_number():
    first = trainer_of(1).step(batch())
    assert trainer_of(1).step(batch()) == first
    assert trainer_of(2).step(batch()) != first
    assert trainer_of(1, steps=1).step(batch()) != first


def test_one_seed_is_one_result():
    def result(seed: int) -> float:
        rng = np.random.default_rng(3)
        return train(trainer_of(seed), manifest_of(DROPOUT), flowers(), rng, lambda: False).loss

    assert result(1) == result(1)
    assert result(1) != result(2)


def test_it_learns_all_the_same():
    manifest = manifest_of(DROPOUT, epochs=30)
    trainer = trainer_of(1)
    first = trainer.step(batch())
    assert train(trainer, manifest, flowers(), np.random.default_rng(1), bool).loss < 0.7 * first


def test_a_plan_that_takes_numbers_but_does_not_say_so_is_bad():
    manifest = manifest_of(DROPOUT, draws=msgspec.UNSET)
    with pytest.raises(BadPlan, match="draw/1"):
        Trainer(manifest, DROPOUT, weights_of(DROPOUT), threads=1)


def test_an_agent_that_does_not_know_of_them_says_what_it_does_not_know():
    """As one of before they were there."""
    data = (DROPOUT / "manifest.json").read_bytes().replace(b'"draws"', b'"drawz"')
    with pytest.raises(WireError, match="unknown key 'drawz'"):
        parse_manifest(data)
