"""Training steps a second: the plan against onnxruntime-training's own API, one thread.

Each side is a process of its own; they take turns of a fraction of a second, and what is compared
is each turn with the baseline's turn beside it. So a machine that is busy, or throttles, slows
both alike.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.plans import MODELS, OPTIMIZERS, compile_plan
from benchmarks.report import Row, Section, median, spread
from benchmarks.runtimes import ROOT, Runtime, environment
from benchmarks.training_api import write_artifacts

GOAL = 1.0
BATCHES = (10, 50)
_SAME_LOSS = 1e-3  # relative: above it the two sides do not train the same model


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
            raise RuntimeError(f"a stepper ended with status {self._process.wait()}")
        found: list[float] = json.loads(text)
        return found


def measure(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    """The section."""
    section = Section(
        "Training steps a second, one thread: the plan against onnxruntime-training's own API"
    )
    turns, seconds = (5, 0.1) if quick else (15, 0.2)
    for model in MODELS:
        for optimizer, batch in product(OPTIMIZERS, BATCHES):
            plan = compile_plan(work, model, optimizer=optimizer)
            artifacts = write_artifacts(work, model, optimizer)
            say(f"steps: {model}, {optimizer}, batch {batch}")
            with ExitStack() as stack:
                api = stack.enter_context(_Stepper(sys.executable, "api", artifacts, batch))
                sides = [
                    stack.enter_context(_Stepper(r.python, "plan", plan, batch)) for r in runtimes
                ]
                what = f"{model}, {optimizer}, batch {batch}"
                if optimizer == "momentum":  # the API has none
                    api.losses = []
                rows = _compare(what, api, sides, runtimes, turns, seconds)
                section.rows += rows
    section.notes = [
        f"Ratios of paired turns, in processor time: median [least .. most] of {turns} turns of "
        f"{seconds} s each.",
        "Before that, the losses of both sides are compared: same model, same batches, same steps.",
        "The API has no momentum: those plans are held against its plain SGD, losses uncompared.",
    ]
    return section


def _compare(
    what: str,
    api: _Stepper,
    sides: list[_Stepper],
    runtimes: list[Runtime],
    turns: int,
    seconds: float,
) -> list[Row]:
    api.turn(3)
    wall, _ = api.turn(5)
    steps = max(2, round(seconds * 5 / wall))
    everyone = [api, *sides]
    times: list[list[tuple[float, float]]] = [[] for _ in everyone]
    for turn in range(turns):
        order = range(len(everyone)) if turn % 2 else reversed(range(len(everyone)))
        for index in order:
            times[index].append(everyone[index].turn(steps))
    return [
        _row(what, runtime, side.losses, api.losses, times[number], times[0], steps)
        for number, (runtime, side) in enumerate(zip(runtimes, sides, strict=True), start=1)
    ]


def _row(
    what: str,
    runtime: Runtime,
    losses: list[float],
    expected: list[float],
    ours: list[tuple[float, float]],
    theirs: list[tuple[float, float]],
    steps: int,
) -> Row:
    what = f"{what}, {runtime.name}"
    pairs = zip(losses, expected, strict=bool(expected))
    if any(abs(found - wanted) > _SAME_LOSS * abs(wanted) for found, wanted in pairs):
        return Row(what, f"losses differ: {losses[-1]:.5g} against {expected[-1]:.5g}", met=False)
    ratios = [b[1] / a[1] for a, b in zip(ours, theirs, strict=True)]
    rate, base = (steps / median([t[1] for t in side]) for side in (ours, theirs))
    return Row(
        what,
        f"{spread(ratios, '.3f')} x, {rate:,.0f} steps/s",
        f"{base:,.0f} steps/s, the API",
        f">= {GOAL:.3f} x",
        median(ratios) >= GOAL,
    )
