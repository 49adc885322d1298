"""Who gets which digits."""

import numpy as np
import pytest

from examples.mnist import data
from wire.plan import Input

LABELS = np.random.default_rng(3).permutation(np.arange(6000) % 10).astype(np.uint8)


def dealt_once(parts, count):
    return np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))


def test_the_papers_devices_have_as_many_digits_each():
    shares = data.deal(LABELS, iid=True, rng=np.random.default_rng(1))
    assert [len(share) for share in shares] == [60] * 100
    assert dealt_once(shares, 6000)


def test_two_shards_of_the_sorted_digits_have_two_labels_at_most():
    shares = data.deal(LABELS, iid=False, rng=np.random.default_rng(1))
    assert dealt_once(shares, 6000)
    kinds = [len(np.unique(LABELS[share])) for share in shares]
    assert max(kinds) == 2


@pytest.mark.parametrize("share", [0.1, 0.9, 1.0])
def test_a_nodes_own_class_has_its_share(share):
    train, held_out = data.nodes(LABELS, share, seed=1)
    assert dealt_once([*train, *held_out], 6000)
    for node in range(10):
        mine = LABELS[np.concatenate([train[node], held_out[node]])]
        assert np.mean(mine == node) == pytest.approx(share, abs=0.02)
        assert len(held_out[node]) == pytest.approx(0.1 * len(mine), abs=1)


def test_another_seed_deals_otherwise():
    one, two = (data.nodes(LABELS, 0.9, seed)[0][0] for seed in (1, 2))
    assert not np.array_equal(np.sort(one), np.sort(two))


def test_digits_are_read_as_a_plans_inputs(made_up):
    inputs = (
        Input(name="x", dtype="float32", shape=(784,)),
        Input(name="label", dtype="int64", shape=(), classes=10),
    )
    pool = data.read(made_up, inputs, quick=False)
    assert pool.digits.arrays["x"].shape == (600, 784)
    assert pool.digits.arrays["x"].max() == np.float32(250) / 255
    assert np.array_equal(pool.digits.arrays["label"], pool.labels)
    assert len(pool.test) == 200
    heap = data.together(pool, [np.array([5, 1]), np.array([3])])
    assert np.array_equal(heap.arrays["label"], pool.labels[[1, 3, 5]])
