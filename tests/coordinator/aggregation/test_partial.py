"""Sums as bytes: the same sum the same bytes, and nothing else is read."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation import FedAvg, FedNova, aggregator
from tests.coordinator.aggregation.samples import (
    PARAMETERS,
    SIZE,
    contribution,
    contributions,
    total_of,
    whole,
)
from wire.errors import Rule, WireError

HEADER, DIGEST = 72, 32


@given(st.lists(contributions(), max_size=6), st.lists(contributions(), max_size=3))
def test_a_sum_goes_on_after_the_way_through_bytes(before, after):
    strategy = aggregator(FedNova(), PARAMETERS)
    straight, resumed = strategy.empty(), strategy.empty()
    for update in before:
        straight.add(update)
        resumed.add(update)
    data = resumed.to_bytes()
    resumed = strategy.read(data)
    assert resumed.to_bytes() == data
    for update in after:
        straight.add(update)
        resumed.add(update)
    assert whole(resumed) == whole(straight)
    assert (resumed.updates, resumed.examples, resumed.weight, resumed.work) == (
        *(straight.updates, straight.examples),
        *(straight.weight, straight.work),
    )


@pytest.mark.parametrize(("size", "width"), [(1e-9, 1), (0.01, 2), (10.0, 4), (2e6, 8)])
def test_it_is_as_short_as_its_numbers_allow(size, width):
    update = contribution(1, examples=10_000, size=size)
    assert len(total_of([update]).to_bytes()) == HEADER + (4 + width) * SIZE + DIGEST


def signed(data: bytes) -> bytes:
    """With a digest that fits."""
    return data[:-DIGEST] + hashlib.sha256(data[:-DIGEST]).digest()


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_any_flipped_bit_is_seen(place, bit):
    data = bytearray(total_of([contribution(1)]).to_bytes())
    data[place % len(data)] ^= 1 << bit
    with pytest.raises(WireError):
        aggregator(FedAvg(), PARAMETERS).read(bytes(data))


@pytest.mark.parametrize("length", [0, 71, 103, 200, -1])
def test_a_part_is_not_a_sum(length):
    data = total_of([contribution(1)]).to_bytes()
    with pytest.raises(WireError) as refused:
        aggregator(FedAvg(), PARAMETERS).read(data[:length])
    assert refused.value.code is Rule.TRUNCATED


def change(data: bytes, at: int, new: bytes) -> bytes:
    return signed(data[:at] + new + data[at + len(new) :])


@pytest.mark.parametrize(
    ("at", "new"),
    [
        (0, b"SUML"),
        (4, b"\x02\x00"),  # version
        (6, b"\x03\x00"),  # bytes of a high limb
        (16, (2).to_bytes(8, "little")),  # more updates than weight allows: work below
        (16, (1 << 25).to_bytes(8, "little")),
        (24, (0).to_bytes(8, "little")),  # examples
        (32, (0).to_bytes(8, "little")),  # weight
        (40, (0).to_bytes(16, "little")),  # work
    ],
)
def test_what_contradicts_itself_is_refused_though_the_digest_fits(at, new):
    data = total_of([contribution(1, examples=1)]).to_bytes()
    with pytest.raises(WireError) as refused:
        aggregator(FedAvg(), PARAMETERS).read(change(data, at, new))
    assert refused.value.code is Rule.BAD_FORMAT


def test_limbs_wider_than_needed_or_out_of_range_are_refused():
    data = total_of([contribution(1, size=2e6, examples=10_000)]).to_bytes()
    limbs = HEADER + 4 * SIZE
    read = aggregator(FedAvg(), PARAMETERS).read
    for high in (np.zeros(SIZE, "<i8"), np.full(SIZE, 1 << 50, "<i8")):
        with pytest.raises(WireError, match="out of range"):
            read(change(data, limbs, high.tobytes()))


def test_the_sum_of_another_task_is_refused():
    data = total_of([contribution(1)]).to_bytes()
    others = [
        aggregator(FedAvg(max_examples=5), PARAMETERS),
        aggregator(FedAvg(max_norm=1.0), PARAMETERS),
        aggregator(FedNova(), PARAMETERS),
        aggregator(FedAvg(), PARAMETERS, staleness_exponent=1.0),
        aggregator(FedAvg(), PARAMETERS[:2]),
    ]
    for other in others:
        with pytest.raises(WireError) as refused:
            other.read(data)
        assert refused.value.code is Rule.WRONG_SHAPE
    aggregator(FedAvg(), PARAMETERS).read(data)
