"""MNIST's digits as a plan takes them, and how they are dealt out to a fleet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_agent.examples import Examples
from fleet.simulation.idx import Bytes, load
from fleet.simulation.splits import Rows, alike, hold_out, majority, shards
from wire.plan import Input

NODES = 10
DEVICES = 100
"""FedAvg's."""
HELD_OUT = 0.1
"""The part of a node's digits that it does not train on."""

_SHARDS = 2  # of a device
_QUICK, _QUICK_TEST = 6000, 1000


@dataclass(frozen=True)
class Pool:
    """All digits to train on, their labels [n], and the test digits."""

    digits: Examples
    labels: Bytes
    test: Examples


def read(folder: Path, inputs: tuple[Input, ...], quick: bool) -> Pool:
    """The digits as a plan's inputs; a tenth of them if `quick`. Raises `DataMissing`."""
    training, test = load(folder)
    some, few = (slice(_QUICK), slice(_QUICK_TEST)) if quick else (slice(None), slice(None))
    return Pool(training.examples(some, inputs), training.labels[some], test.examples(few, inputs))


def deal(labels: Bytes, iid: bool, rng: np.random.Generator) -> list[Rows]:
    """FedAvg's hundred devices: shuffled digits, or two shards each of the digits sorted by label.
    All have as many."""
    if iid:
        return alike(labels.size, DEVICES, rng)
    return shards(labels, DEVICES, _SHARDS, rng)


def nodes(labels: Bytes, share: float, seed: int) -> tuple[list[Rows], list[Rows]]:
    """(train, held out) of ten nodes: of each node's digits `share` are of one class. A tenth: all
    nodes are alike; 1: each has one class only."""
    rng = np.random.default_rng([seed, 2])
    return hold_out(majority(labels, NODES, share, rng), HELD_OUT, rng)


def together(pool: Pool, shares: Sequence[Rows]) -> Examples:
    """What all devices have, on one heap."""
    return pool.digits.where(np.sort(np.concatenate(shares)))
