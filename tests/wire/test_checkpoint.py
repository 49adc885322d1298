"""Checkpoints: the same weights are the same bytes."""

import numpy as np
import pytest
from hypothesis import given

from tests.wire import memory
from tests.wire.samples import PARAMETERS, deltas, weights
from wire import tensors
from wire.checkpoint import read, size_limit, write
from wire.digest import digest_of
from wire.errors import Rule, WireError
from wire.plan import Parameter


@given(deltas())
def test_weights_come_back_as_they_were(example):
    parameters, made = example
    data = write(made)
    assert len(data) <= size_limit(parameters)
    found = read(data, parameters)
    assert found.keys() == made.keys()
    for name, values in made.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], values)
        assert found[name].shape == values.shape


def test_the_same_weights_are_the_same_bytes():
    made = weights()
    backwards = {name: made[name].astype(">f4", order="F") for name in reversed(made)}
    assert digest_of(write(backwards)) == digest_of(write(made))


def test_a_checkpoint_carries_no_metadata():
    with pytest.raises(WireError) as caught:
        read(tensors.write(weights(), {"format": "pt"}), PARAMETERS)
    assert caught.value.code == Rule.BAD_FORMAT


def test_a_checkpoint_of_other_parameters_is_refused():
    data = write(weights())
    for parameters, rule in (
        (PARAMETERS[:-1], Rule.WRONG_NAMES),
        ((*PARAMETERS, Parameter(name="more", shape=())), Rule.WRONG_NAMES),
        ((Parameter(name="w", shape=(3, 2)), *PARAMETERS[1:]), Rule.WRONG_SHAPE),
    ):
        with pytest.raises(WireError) as caught:
            read(data, parameters)
        assert caught.value.code == rule


def test_only_float32_is_a_checkpoint():
    with pytest.raises(WireError) as caught:
        read(write({n: v.astype("<f2") for n, v in weights().items()}), PARAMETERS)
    assert caught.value.code == Rule.WRONG_DTYPE


def test_a_file_over_the_limit_is_refused_unread():
    data = bytes(1 << 24)
    with memory.at_most(10_000), pytest.raises(WireError) as caught:
        read(data, PARAMETERS)
    assert caught.value.code == Rule.TOO_LARGE
