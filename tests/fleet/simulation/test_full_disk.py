"""A disk that is full is named: there are three at least, of results, of temporary files and of
memory."""

import resource
from pathlib import Path

import pytest

from coordinator.aggregation.contract import Contribution
from coordinator.aggregation.layout import Layout
from coordinator.aggregation.rows import Rows
from fleet.digits import PLAN
from fleet.simulation import data, report
from fleet.simulation.models import Models
from fleet.simulation.result import Version
from tests.fleet.simulation.small import MANIFEST, first_weights, fleet

VERSIONS = [
    Version(number=n, test={"loss": 1.0 - n}, losses={0: 1.0}, upload=n, download=n)
    for n in range(3)
]
RESULTS = [
    "versions.csv", "losses.parquet", "metric-loss.png", "bytes.svg", "model.safetensors",
]  # fmt: skip


def full(path: Path) -> Path:
    """There is no room for what is written there."""
    path.symlink_to("/dev/full")
    return path


@pytest.mark.parametrize("name", RESULTS)
def test_of_results(tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pyarrow")
    path = full(tmp_path / name)
    with pytest.raises(OSError, match="No space left on device") as told:
        report.write_all(tmp_path, VERSIONS, name="n", seed=1, weights=first_weights())
    assert told.value.filename == str(path)


@pytest.mark.parametrize("name", ["pool-0.npy", "held-out-ends.npy"])
def test_of_examples(tmp_path: Path, name: str) -> None:
    found = data.gather(fleet(2), MANIFEST.inputs, None)
    with pytest.raises(OSError, match=str(full(tmp_path / name))):
        data.write(found, tmp_path)


def test_of_models(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=str(full(tmp_path / "0.safetensors"))):
        Models(tmp_path, (PLAN / "checkpoint.safetensors").read_bytes(), MANIFEST.checkpoint)


def test_of_updates_that_wait_for_the_end_of_a_round(tmp_path: Path) -> None:
    change = Contribution(first_weights(), 1, 1, 0)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Rows(Layout(MANIFEST.parameters), 0.5, tmp_path) as rows:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        try:
            with pytest.raises(OSError, match="too large") as told:
                rows.fill([("a", change)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert told.value.filename == str(tmp_path)
