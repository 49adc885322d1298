"""Training steps a second, one thread: the plan against onnxruntime-training's own API, where that
can train the model, and against torch, where this environment has it.

Each side is a process of its own; they take turns of a fraction of a second, and what is compared
is each turn with the baseline's turn beside it. So a machine that is busy, or throttles, slows
both alike.
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.plans import MODELS, compile_plan
from benchmarks.report import Row, Section, median, spread
from benchmarks.runtimes import ROOT, Runtime, environment
from benchmarks.training_api import artifacts_of

GOAL = 1.0
BATCHES = (10, 50)
CASES = (*((model, "sgd") for model in MODELS), ("2nn", "adamw"), ("cnn", "adamw"))
"""What is trained how: the API has no momentum."""
# Relative: above it the two sides do not train the same model. The API adds AdamW's epsilon before
# it corrects the second moment, which a first step from gradients of about 1e-8 shows.
_SAME_LOSS = 1e-2


class _Ended(Exception):
    """A stepper is gone; its exit status."""


@dataclass
class _Side:
    """One of those that are compared: its process, and (wall, processor) seconds of each turn."""

    name: str
    stepper: "_Stepper"
    turns: list[tuple[float, float]]

    def rate(self, steps: int) -> float:
        """Steps a second, on the wall."""
        return steps / median([wall for wall, _ in self.turns])


class _Stepper:
    """A `benchmarks.stepper` process."""

    def __init__(self, python: str, kind: str, folder: Path, batch: int) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.stepper", kind, str(folder), str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment(),
        )
        self.losses: list[float] = self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def turn(self, steps: int) -> tuple[float, float]:
        """(Seconds on the wall, seconds of the processor) that so many steps took."""
        assert self._process.stdin
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        wall, cpu = self._line()
        return wall, cpu

    def _line(self) -> list[float]:
        assert self._process.stdout
        text = self._process.stdout.readline()
        if not text:
            raise _Ended(self._process.wait())
        found: list[float] = json.loads(text)
        return found


def measure(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    """The section."""
    section = Section("Training steps a second, one thread: the plan against others")
    turns, seconds = (5, 0.1) if quick else (15, 0.2)
    torch = _torch_version()
    ratios: dict[str, list[float]] = {}
    for (model, optimizer), batch in product(CASES, BATCHES):
        say(f"steps: {model}, {optimizer}, batch {batch}")
        with ExitStack() as stack:
            plans, others = _sides(stack, work, model, optimizer, batch, runtimes, torch)
            steps = _take_turns([*others, *plans], turns, seconds)
        for ours, theirs in product(plans, others):
            what = f"{model}, {optimizer}, batch {batch}, {ours.name}"
            # Against torch the goal is of the mean over all models. The API's AdamW is one operator
            # of its own, which no standard graph can have: it is shown, without a goal.
            goal = theirs.name == "the API" and optimizer == "sgd"
            row, ratio = _compare(what, ours, theirs, steps, goal)
            section.rows.append(row)
            if theirs.name == torch and ratio:
                ratios.setdefault(ours.name, []).append(ratio)
    for name, found in ratios.items():
        mean = math.exp(sum(map(math.log, found)) / len(found))
        what = f"geometric mean against {torch}, {name}"
        section.rows.append(
            Row(what, f"{mean:.3f} x", f"{len(found)} ratios", f">= {GOAL:.3f} x", mean >= GOAL)
        )
    if not torch:
        section.missing("against torch", "it is not installed here")
    section.notes = [
        f"Ratios of paired turns, in processor time: median [least .. most] of {turns} turns of "
        f"{seconds} s each.",
        "Before that, the losses of both sides are compared: same model, same batches, same steps.",
        "A model without a row against the API is one that it cannot train.",
    ]
    return section


def _torch_version() -> str:
    """Torch's name and version; empty where it is not installed."""
    try:
        return f"torch {version('torch')}"
    except PackageNotFoundError:
        return ""


def _sides(
    stack: ExitStack,
    work: Path,
    model: str,
    optimizer: str,
    batch: int,
    runtimes: list[Runtime],
    torch: str,
) -> tuple[list[_Side], list[_Side]]:
    """(Ours, the others), each a process."""

    def start(name: str, python: str, kind: str, folder: Path) -> _Side:
        return _Side(name, stack.enter_context(_Stepper(python, kind, folder, batch)), [])

    plan = compile_plan(work, model, optimizer=optimizer)
    plans = [start(r.name, r.python, "plan", plan) for r in runtimes]
    others = []
    if artifacts := _artifacts(work, model, optimizer):
        others.append(start("the API", sys.executable, "api", artifacts))
    if torch and optimizer == "sgd":
        others.append(start(torch, sys.executable, "torch", plan))
    return plans, others


def _artifacts(work: Path, model: str, optimizer: str) -> Path | None:
    """The API's files of a model; `None` where it cannot make or run them."""
    command = [sys.executable, "-m", "benchmarks.training_api", str(work), model, optimizer]
    if subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True).returncode:
        return None
    folder = artifacts_of(work, model, optimizer)
    try:
        with _Stepper(sys.executable, "api", folder, BATCHES[0]):
            return folder
    except _Ended:  # a kernel is missing, or it crashed
        return None


def _take_turns(sides: list[_Side], turns: int, seconds: float) -> int:
    """Let each side have its turns, in alternating order; returns the steps of a turn."""
    first = sides[0].stepper
    first.turn(3)
    wall, _ = first.turn(5)
    steps = max(2, round(seconds * 5 / wall))
    for turn in range(turns):
        for side in sides if turn % 2 else reversed(sides):
            side.turns.append(side.stepper.turn(steps))
    return steps


def _compare(
    what: str, ours: _Side, theirs: _Side, steps: int, goal: bool
) -> tuple[Row, float | None]:
    """The row, and the ratio; none where the two do not train the same model."""
    what = f"{what} / {theirs.name}"
    found, expected = ours.stepper.losses, theirs.stepper.losses
    pairs = zip(found, expected, strict=True)
    if any(abs(a - b) > _SAME_LOSS * abs(b) for a, b in pairs):
        return Row(what, f"losses differ: {found[-1]:.5g}, {expected[-1]:.5g}", met=False), None
    ratios = [b[1] / a[1] for a, b in zip(ours.turns, theirs.turns, strict=True)]
    middle = median(ratios)
    measured = f"{spread(ratios, '.3f')} x, {ours.rate(steps):,.0f} steps/s"
    beside = f"{theirs.rate(steps):,.0f} steps/s"
    if not goal:
        return Row(what, measured, beside), middle
    return Row(what, measured, beside, f">= {GOAL:.3f} x", middle >= GOAL), middle
