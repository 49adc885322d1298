"""Rounds a minute of simulators of federated learning, ours among them, side by side in one run.

The work is the same for all: see `benchmarks.others`. Each other simulator lives in an interpreter
of its own, which `LAMPLIGHTER_SIMULATORS` names: "flwr=/path/python fedjax=/path/python". They take
turns, each a process; start-up and the first rounds, in which code is compiled and data are read,
do not count.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import mnist
from benchmarks.plans import compile_plan
from benchmarks.report import Row, Section, median, spread
from benchmarks.runtimes import ROOT, environment
from coordinator.compiler.folder import read_plan_dir
from fleet.simulation import idx, splits
from wire import checkpoint

VARIABLE = "LAMPLIGHTER_SIMULATORS"
OTHERS = ("flwr", "fedjax", "pfl")

_OURS = "lamplighter"
_RATE = 0.1
_DEVICES = 100
_WARM = 3
"""Rounds that do not count."""
_LIMIT_SECONDS = 900.0
_LEARNT = 0.9
"""Of the test digits, at least, in the end: or it is not the same work."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Simulator:
    """A program that prints its rounds, and how many processes it is given."""

    name: str
    command: tuple[str, ...]
    workers: int


def measure(work: Path, quick: bool, say: Say) -> Section:
    """Rounds a minute of each."""
    rounds, turns = (12, 1) if quick else (40, 3)
    section = Section("Simulated rounds a minute: 2NN, 100 devices, 10 a round")
    try:
        data = _write_data(work)
    except idx.DataMissing as error:
        section.missing("simulators", str(error))
        return section
    compiled = compile_plan(work, "2nn", rate=_RATE)
    found: dict[str, list[float]] = {}
    simulators = _simulators(compiled)
    for turn in range(turns):
        for one in simulators:
            say(f"simulators: {one.name}, turn {turn + 1} of {turns}")
            try:
                rate = _run(one, data, rounds)
                found.setdefault(one.name, []).append(rate)
            except Failed as error:
                section.missing(one.name, str(error))
    for row in _rows(found):
        section.rows.append(row)
    for name in OTHERS:
        if not any(s.name.startswith(name) for s in simulators):
            section.missing(name, f"{VARIABLE} names no interpreter that holds it")
    section.notes.append(f"{turns} turns of {rounds} rounds each, the first {_WARM} not counted.")
    return section


class Failed(Exception):
    """A simulator that gave no figures; one line."""


def _rows(found: dict[str, list[float]]) -> list[Row]:
    ours = found.get(_OURS, [])
    others = {name: rates for name, rates in found.items() if name != _OURS}
    fastest = max(others, key=lambda name: median(others[name]), default=None)
    rows = [Row(name, f"{spread(rates, '.0f')} rounds/min") for name, rates in others.items()]
    if not ours:
        return rows
    told = f"{spread(ours, '.0f')} rounds/min"
    if fastest is None:
        return [Row(_OURS, told)]
    beside = median(others[fastest])
    ratio = median(ours) / beside
    what = f"{_OURS} / {fastest}, the fastest of these"
    return [*rows, Row(what, f"{ratio:.2f} x, {told}", f"{beside:.0f}", ">= 1.00 x", ratio >= 1.0)]


def _simulators(plan: Path) -> list[Simulator]:
    cores = os.cpu_count() or 1
    ours = ("-m", "benchmarks.simulated", str(plan))
    found = [Simulator(_OURS, (sys.executable, *ours), cores)]
    for entry in os.environ.get(VARIABLE, "").split():
        name, _, python = entry.partition("=")
        if name not in OTHERS:
            raise SystemExit(f"error: {VARIABLE}: {name!r} is none of {', '.join(OTHERS)}")
        program = (python, str(ROOT / "benchmarks" / "others" / f"{name}_rounds.py"))
        if name == "fedjax" and cores > 1:  # its two ways: neither is always the faster
            found.append(Simulator("fedjax, one worker", program, 1))
        found.append(Simulator(name, program, 1 if name == "pfl" else cores))
    return found


def _run(one: Simulator, data: Path, rounds: int) -> float:
    """Rounds a minute. Raises `Failed`."""
    command = [*one.command, str(data), str(rounds), str(one.workers)]
    settings = environment() | {"OMP_NUM_THREADS": "1", "RAY_DEDUP_LOGS": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, env=settings
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Failed(str(error)) from None
    at, accuracy = _told(done.stdout)
    if done.returncode or len(at) != rounds or accuracy is None:
        last = (done.stderr.strip() or "no word").splitlines()[-1]
        raise Failed(f"status {done.returncode} after {len(at)} rounds: {last}")
    if accuracy < _LEARNT:
        raise Failed(f"it learnt {accuracy:.1%} only")
    return 60 * (rounds - _WARM) / (at[rounds] - at[_WARM])


def _told(text: str) -> tuple[dict[int, float], float | None]:
    """When each round ended, and the accuracy. What else a program says is passed over."""
    at, accuracy = {}, None
    for line in text.splitlines():
        try:
            said = json.loads(line) if line.startswith("{") else {}
        except ValueError:
            continue
        if said.get("round", 0) > 0:
            at[said["round"]] = said["at"]
        accuracy = said.get("accuracy", accuracy)
    return at, accuracy


def _write_data(folder: Path) -> Path:
    """What every simulator reads. Raises `DataMissing`."""
    training, test = idx.load(mnist.folder())
    shares = splits.alike(training.labels.size, _DEVICES, np.random.default_rng(1))
    initial = _initial(folder)
    path = folder / "simulators.npz"
    np.savez(
        path,
        allow_pickle=False,
        x=training.images.reshape(-1, 784).astype(np.float32) / np.float32(255),
        label=training.labels.astype(np.int64),
        test_x=test.images.reshape(-1, 784).astype(np.float32) / np.float32(255),
        test_label=test.labels.astype(np.int64),
        shares=np.stack(shares),
        **initial,
    )
    return path


def _initial(folder: Path) -> dict[str, np.ndarray]:
    """The three matrices of the plan's initial model, [in, out]; its biases are 0."""
    plan = read_plan_dir(compile_plan(folder, "2nn", rate=_RATE))
    weights = checkpoint.read(plan.initial, plan.manifest.parameters)
    found = {value.size: value for value in weights.values()}
    shapes = ((784, 200), (200, 200), (200, 10))
    return {
        f"w{n}": found[i * o] if found[i * o].shape == (i, o) else found[i * o].T
        for n, (i, o) in enumerate(shapes, start=1)
    }
