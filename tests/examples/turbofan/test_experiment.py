"""The whole path on made-up engines: plans, rounds, the agent's own training."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from examples.turbofan import FOLDER, experiment, make
from examples.turbofan.cmapss import NAMES, Flights
from examples.turbofan.experiment import Outcome

ROUNDS = 3


@pytest.fixture(scope="module")
def outcome(flights: Flights, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    plans = experiment.plans(tmp_path_factory.mktemp("plans"), ROUNDS)
    return experiment.run(flights, plans, 1, watch=True, workers=0)


def test_the_model_is_that_of_the_report_and_as_it_is_made():
    made = make.model()
    sizes = [tensor.dims for tensor in made.graph.initializer]
    assert sum(_product(size) for size in sizes) == 865
    assert (FOLDER / "turbofan.onnx").read_bytes() == made.SerializeToString()
    onnx.checker.check_model(made)


def test_everyone_starts_from_one_model_and_learns(outcome: Outcome):
    assert len(outcome.federated) == len(outcome.centralised) == len(outcome.alone) == ROUNDS + 1
    assert outcome.federated[0] == pytest.approx(outcome.centralised[0])
    assert outcome.federated[0] == pytest.approx(outcome.alone[0])
    assert outcome.federated[-1] < outcome.federated[0]
    assert outcome.centralised[-1] < outcome.centralised[0]
    assert outcome.each_alone[-1] == outcome.alone[-1]
    assert len(outcome.each_alone) == 4


def test_nodes_get_better_at_their_own_engines_as_they_train(outcome: Outcome):
    assert sorted(outcome.teeth) == [0, 1, 2]
    for teeth in outcome.teeth.values():
        assert len(teeth) == ROUNDS
        before, after = teeth[0]
        assert after < before
        assert teeth[1][0] != after  # the others' part has arrived


def test_what_is_uploaded_is_counted(outcome: Outcome):
    assert 3 * ROUNDS * 100 < outcome.upload < 3 * ROUNDS * 4000


def test_steps_are_told(flights: Flights, tmp_path: Path):
    told: list[str] = []
    plans = experiment.plans(tmp_path, 1)
    experiment.run(flights, plans, 1, workers=0, done=told.append)
    assert told == ["round 0", "round 1", "centralised", "alone"]


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.turbofan", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_one_command_writes_all(folder: Path, tmp_path: Path):
    found = command(folder, "-o", tmp_path, "--quick", "--workers", "0")
    assert (found.returncode, found.stderr) == (0, "")
    assert "20 engines" in found.stdout
    assert "centralised" in found.stdout
    assert {"rmse.png", "rmse.svg", "nodes.png", "splits.csv"} <= {
        p.name for p in tmp_path.iterdir()
    }


def test_what_is_no_folder_is_told_before_all_the_work(folder: Path, tmp_path: Path):
    (tmp_path / "out").touch()
    found = command(folder, "-o", tmp_path / "out", "--quick", "--workers", "0")
    assert found.returncode == 2
    assert f"File exists: '{tmp_path / 'out'}'" in found.stderr
    assert "split" not in found.stdout


def test_a_missing_file_is_one_line_and_status_2(tmp_path: Path):
    found = command(tmp_path, "-o", tmp_path / "out")
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert f"{tmp_path / NAMES[0]} is not there" in found.stderr
    assert not (tmp_path / "out").exists()


def _product(sizes: list[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found
