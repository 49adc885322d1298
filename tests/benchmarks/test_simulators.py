"""Simulators side by side: what counts of a run, and what does not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import simulators
from benchmarks.plans import compile_plan
from benchmarks.runtimes import environment
from benchmarks.simulators import Failed, Simulator

_PROGRAM = """
import json, sys
for number in range({first}, int(sys.argv[2]) + 1):
    print(json.dumps({{"round": number, "at": 10.0 if number < 4 else 10.0 + 0.5 * (number - 3)}}))
print("a word of another kind")
print("{{a word in braces}}")
print(json.dumps({{"accuracy": {accuracy}}}))
sys.exit({status})
"""


def program(folder: Path, *, first: int = 1, accuracy: float = 0.95, status: int = 0) -> Simulator:
    path = folder / "program.py"
    path.write_text(_PROGRAM.format(first=first, accuracy=accuracy, status=status))
    return Simulator("other", (sys.executable, str(path)), 2)


def test_rounds_a_minute_without_the_first_ones(tmp_path: Path) -> None:
    assert simulators._run(program(tmp_path), tmp_path, 13) == pytest.approx(120.0)


def test_what_is_not_the_same_work_is_no_figure(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="learnt 20"):
        simulators._run(program(tmp_path, accuracy=0.2), tmp_path, 13)
    with pytest.raises(Failed, match="status 3 after 13 rounds"):
        simulators._run(program(tmp_path, status=3), tmp_path, 13)
    with pytest.raises(Failed, match="after 12 rounds"):
        simulators._run(program(tmp_path, first=2), tmp_path, 13)


def test_the_row_is_against_the_fastest() -> None:
    rows = simulators._rows({"lamplighter": [300.0], "flwr": [100.0], "fedjax": [200.0, 201.0]})
    assert rows[-1].what == "lamplighter / fedjax, the fastest of these"
    assert rows[-1].met
    assert rows[-1].measured.startswith("1.50 x")


def test_our_own_program_tells_its_rounds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    count = 200
    np.savez(
        tmp_path / "data.npz",
        x=rng.random((count, 784), np.float32),
        label=rng.integers(0, 10, count),
        test_x=rng.random((20, 784), np.float32),
        test_label=rng.integers(0, 10, 20),
        shares=np.arange(count).reshape(20, 10),
    )
    plan = compile_plan(tmp_path, "2nn", rate=0.1)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.simulated", plan, tmp_path / "data.npz", "2", "0"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        check=True,
    )
    at, accuracy = simulators._told(done.stdout)
    assert list(at) == [1, 2]
    assert accuracy is not None
