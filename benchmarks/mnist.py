"""Where MNIST's files are."""

import os
from pathlib import Path

from benchmarks.runtimes import ROOT
from fleet.simulation.idx import DataMissing, check

VARIABLE = "LAMPLIGHTER_MNIST"
"""The environment variable that names the folder of the four files."""

_DEFAULT = ROOT.parent / "shared" / "data" / "mnist"


def folder() -> Path:
    """Where the files are. Raises `DataMissing` where they are not."""
    found = Path(os.environ.get(VARIABLE) or _DEFAULT)
    try:
        check(found)
    except DataMissing as error:
        raise DataMissing(f"{error}; {VARIABLE} names their folder") from None
    return found
