"""MNIST as a hundred devices hold it: where its files are, and how FedAvg's paper deals it."""

import os
from pathlib import Path

import numpy as np

from benchmarks.runtimes import ROOT
from fleet.simulation import splits
from fleet.simulation.idx import Bytes, DataMissing, check
from fleet.simulation.splits import Rows

VARIABLE = "LAMPLIGHTER_MNIST"
"""The environment variable that names the folder of the four files."""
DEVICES = 100

_DEFAULT = ROOT.parent / "shared" / "data" / "mnist"
_SHARDS = 2  # a device has, of the digits sorted by label


def folder() -> Path:
    """Where the files are. Raises `DataMissing` where they are not."""
    found = Path(os.environ.get(VARIABLE) or _DEFAULT)
    try:
        check(found)
    except DataMissing as error:
        raise DataMissing(f"{error}; {VARIABLE} names their folder") from None
    return found


def deal(labels: Bytes, alike: bool, rng: np.random.Generator) -> list[Rows]:
    """Which digits each of `DEVICES` devices has: shuffled where they are to be alike, else two
    shards each of the digits sorted by label. All have as many."""
    if alike:
        return splits.alike(labels.size, DEVICES, rng)
    return splits.shards(labels, DEVICES, _SHARDS, rng)
