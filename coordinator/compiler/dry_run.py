"""A dry run of a compiled plan: it is trained for a moment on one batch of made-up examples.

What cannot be run, or does not learn, is said here rather than by a fleet. The batch stays the
same, so that even random labels can be learnt by heart and the loss of a sound plan falls from the
first step on. Real data may be smaller than normal noise, so a plan that diverges on the latter
and learns at a tenth of it is only warned of. The run has a process of its own, bounded in time and
memory, since a broken graph can take the runtime's process down.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import onnx

from coordinator.compiler.drawing import draws_of
from coordinator.compiler.dry_run_child import Attempt, Job, Report, Tried
from coordinator.compiler.errors import CompileError
from coordinator.compiler.folder import write_plan_dir
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.sizes import sized

STEPS, SECONDS = 30, 3.0
_BATCH = 16  # at most: the point is the plan, not the speed
_MEMORY = 8 << 30
_PATIENCE = 60.0  # seconds for the whole child, on a busy machine
_FLAT = 1e-6  # of the loss: no change to speak of
_SKIP = "--no-dry-run compiles it all the same"
_AS_IT_IS, _SMALLER = Attempt(), Attempt(scale=0.1)
_SLOWER = (Attempt(rate=0.1), Attempt(rate=0.01))
_FASTER = (Attempt(rate=1e3), Attempt(rate=1e6))
_USUAL = 0.01  # a learning rate
_RUNTIME_MESSAGE = 400  # characters


def dry_run(plan: CompiledPlan, learns: bool = True) -> tuple[str, ...]:
    """Train the plan for a moment; returns warnings. Blocking, a second or so.

    `learns`: its loss is to fall (a statistic's need not). Raises `CompileError` when the runtime
    cannot run the plan, when a loss or weight is not finite, and when the loss does not fall.
    """
    rate = plan.manifest.learning_rate
    attempts = (_AS_IT_IS, _SMALLER, *_slower(rate), *_faster(rate)) if learns else (_AS_IT_IS,)
    try:
        with tempfile.TemporaryDirectory(prefix="lamplighter-dry-run-") as folder:
            write_plan_dir(plan, Path(folder))
            report = _run(_job(plan, Path(folder), attempts))
    except OSError as error:
        report = str(error)
    return verdict(report, rate, learns)


def _slower(rate: float) -> tuple[Attempt, ...]:
    """Attempts with less than this rate, and one with a usual rate where that is much less."""
    usual = Attempt(rate=_USUAL / rate)
    return (*_SLOWER, usual) if usual.rate < _SLOWER[-1].rate else _SLOWER


def _faster(rate: float) -> tuple[Attempt, ...]:
    """The same of more."""
    usual = Attempt(rate=_USUAL / rate)
    return (*_FASTER, usual) if usual.rate > _FASTER[-1].rate else _FASTER


def verdict(report: Report | str, rate: float, learns: bool) -> tuple[str, ...]:
    """What a report means: warnings, or a `CompileError`. `rate` is the plan's learning rate. A
    report that is text says why there is none."""
    if isinstance(report, str):
        return (f"no dry run: {report}",)
    if report.failure is not None:
        said = " ".join(report.failure.split())[:_RUNTIME_MESSAGE]
        raise CompileError(f"dry run: ONNX Runtime cannot run this plan: {said}")
    tried = {t.attempt: t for t in report.tried}
    first = tried[_AS_IT_IS]
    if not learns:
        if _finite(first):
            return ()
        raise CompileError(f"dry run: {_story(first)} on random data; {_SKIP}")
    if first.fell:
        return ()
    if _fell(tried, _SMALLER):
        return (
            f"dry run: on random data of deviation 1 {_story(first)}; on data a tenth as large the "
            "loss falls. Scale the examples so, or lower optimizer.learning_rate",
        )
    for slower in _slower(rate):
        if _fell(tried, slower):
            raise CompileError(
                f"dry run: {_story(first)}; with {slower.rate:g} times the learning rate the loss "
                f"falls: optimizer.learning_rate = {rate:g} is too high. {_SKIP}"
            )
    if not _finite(first):
        raise CompileError(
            f"dry run: {_story(first)} on random data, also with a hundredth of the learning rate: "
            f"look for a division by zero, a logarithm or a root in the model. {_SKIP}"
        )
    for faster in _faster(rate):
        if _flat(first) and _fell(tried, faster):
            raise CompileError(
                f"dry run: the loss stays at {first.losses[0]:.4g}; with {faster.rate:g} times the "
                f"learning rate it falls: optimizer.learning_rate = {rate:g} is too low. {_SKIP}"
            )
    raise CompileError(
        f"dry run: {_story(first)} on one batch of random data, whatever the learning rate: the "
        f"model does not learn. Are its weights all zero, or its units dead? {_SKIP}"
    )


def _fell(tried: dict[Attempt, Tried], attempt: Attempt) -> bool:
    return attempt in tried and tried[attempt].fell


def _finite(tried: Tried) -> bool:
    return tried.finite and None not in tried.losses


def _flat(tried: Tried) -> bool:
    first, last = tried.losses[0], tried.losses[-1]
    if first is None or last is None:
        return False
    return abs(last - first) <= _FLAT * abs(first)


def _story(tried: Tried) -> str:
    """How an attempt went, in words."""
    steps = len(tried.losses)
    first, last = tried.losses[0], tried.losses[-1]
    if first is None:
        return "the loss is not a finite number at the first step"
    if last is None:
        return (
            f"the loss is no longer a finite number after {steps - 1} steps (at first {first:.4g})"
        )
    if not tried.finite:
        return f"a weight is no longer a finite number after {steps} steps"
    return f"the loss goes from {first:.4g} to {last:.4g} in {steps} steps"


def _job(plan: CompiledPlan, folder: Path, attempts: tuple[Attempt, ...]) -> Job:
    batch = min(plan.manifest.batch, _BATCH)
    train = sized(plan.files["train.onnx"], batch)
    model = onnx.load_model_from_string(plan.files["model.onnx"])
    own = [info.name for info in model.graph.input]
    return Job(
        folder=str(folder),
        draws=tuple(draws_of(plan.manifest, train, own)),
        attempts=attempts,
        batch=batch,
        steps=STEPS,
        seconds=SECONDS / 2,
        memory=_MEMORY,
        parent=os.getpid(),
    )


def _run(job: Job) -> Report | str:
    """The child's report, or why it has none. Raises `CompileError` when it crashes."""
    command = [sys.executable, "-P", "-m", "coordinator.compiler.dry_run_child"]
    try:
        done = subprocess.run(  # noqa: S603 - our own module
            command, input=msgspec.json.encode(job), capture_output=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return f"two steps of {job.batch} examples take over {_PATIENCE:.0f} s on this machine"
    except OSError as error:
        return f"it cannot be started: {error}"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise CompileError(
            f"dry run: the plan makes ONNX Runtime crash ({name}), as it would on every device. "
            "Please report it"
        )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return f"it fails: {lines[-1] if lines else f'exit status {done.returncode}'}"
    return msgspec.json.decode(done.stdout, type=Report)
