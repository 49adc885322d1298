"""What a simulation leaves in its folder."""

from pathlib import Path

import pytest

from fleet.simulation import report
from fleet.simulation.result import Personal, Version
from tests.fleet.simulation.small import first_weights

pytest.importorskip("matplotlib")

VERSIONS = [Version(number=n, test={"loss": 1.0 - n}, upload=n, download=n) for n in range(3)]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_an_earlier_run_left_and_this_one_has_not_is_removed(tmp_path: Path) -> None:
    """A model that is not that of the tables beside it would be taken for it."""
    (tmp_path / "mine.txt").touch()
    personal = Personal(devices=1, gaining=1, mean=0.5, median=0.5, per_device={0: 0.5})
    weights = first_weights()
    report.write_all(tmp_path, VERSIONS, name="n", seed=1, personal=personal, weights=weights)
    whole = names(tmp_path)
    assert {"model.safetensors", "personal.csv", "personal.png", "personal.svg"} < whole
    report.write_all(tmp_path, VERSIONS, name="n", seed=2)
    left = {name for name in whole if not name.startswith(("personal", "model"))}
    assert names(tmp_path) == left
