"""The dry run's own process: `python -m coordinator.compiler.dry_run_child`.

A job on stdin, a report on stdout, both JSON. It takes the plan as a device would: ONNX Runtime on
one thread, step after step on one batch. What the runtime does to a process, it does to this one.
"""

import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coordinator.compiler.made_up import Draw, examples
from wire import checkpoint
from wire.plan import BASE, CHECKPOINT_NAME, PERSONAL_NAME, parse_manifest

Arrays = dict[str, "np.ndarray[Any, Any]"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """Steps on one batch, with so many times the plan's learning rate, and inputs of this scale."""

    rate: float = 1.0
    scale: float = 1.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The plan's folder, and what to try until the loss falls: at most `steps` steps each, at least
    two, in about `seconds`. `memory` bounds the process's own, in bytes. `parent` is the process
    that waits for the report, and removes the folder."""

    folder: str
    draws: tuple[Draw, ...]
    attempts: tuple[Attempt, ...]
    batch: int
    steps: int
    seconds: float
    memory: int
    parent: int


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt gave: the loss before each step (NaN as None), and whether the weights after
    the last are finite."""

    attempt: Attempt
    losses: tuple[float | None, ...]
    finite: bool

    @property
    def fell(self) -> bool:
        """Whether the loss is lower at the end, or was nothing from the start."""
        finite = [loss for loss in self.losses if loss is not None]
        if not self.finite or len(finite) < len(self.losses):
            return False
        late = sorted(finite[-3:])[min(len(finite), 3) // 2] if len(finite) > 3 else finite[-1]
        return late < finite[0] or finite[0] == 0


class Orphaned(BaseException):
    """Nobody waits for the report any more: whoever did was killed."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Every attempt that was made; `failure` is what the runtime says of a plan it cannot run."""

    tried: tuple[Tried, ...] = ()
    failure: str | None = None


def work(job: Job) -> Report:
    """Make the attempts, one after the other, until one has a loss that falls."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    tried: list[Tried] = []
    try:
        plan = _Plan(job)
        for attempt in job.attempts:
            tried.append(plan.attempt(attempt))
            if tried[-1].fell:
                break
        plan.tune()
        plan.evaluate()
    except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
        return Report(tried=tuple(tried), failure=str(error) or type(error).__name__)
    return Report(tried=tuple(tried))


class _Plan:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = Path(job.folder)
        self._manifest = parse_manifest((self._folder / "manifest.json").read_bytes())
        data = (self._folder / CHECKPOINT_NAME).read_bytes()
        self._weights: Arrays = dict(checkpoint.read(data, self._manifest.checkpoint))
        self._train = _session(self._folder / "train.onnx")

    def attempt(self, attempt: Attempt) -> Tried:
        """Steps from the plan's first weights."""
        manifest = self._manifest
        moving = self._weights | {
            s.name: np.full(s.shape, s.fill, np.float32) for s in manifest.state
        }
        fixed = {BASE + name: value for name, value in self._weights.items()}
        fixed |= examples(self._job.draws, self._job.batch, attempt.scale)
        fixed["learning_rate"] = np.asarray(manifest.learning_rate * attempt.rate, np.float32)
        # The same at each step, so that the loss does not wobble.
        rng = np.random.default_rng(2)
        for draw in manifest.drawn:
            fixed[draw.name] = rng.random((self._job.batch, *draw.shape)).astype(np.float32)
        names = [o.name for o in self._train.get_outputs()]
        taken = {i.name for i in self._train.get_inputs()}
        losses: list[float | None] = []
        end = time.monotonic() + self._job.seconds
        while len(losses) < self._job.steps and (len(losses) < 2 or time.monotonic() < end):
            if os.getppid() != self._job.parent:
                raise Orphaned
            feeds = {n: a for n, a in (moving | fixed).items() if n in taken}
            made = dict(zip(names, self._train.run(names, feeds), strict=True))
            loss = float(made["loss"])
            losses.append(loss if np.isfinite(loss) else None)
            moving |= {n: made[f"next/{n}"] for n in moving if f"next/{n}" in made}
            if losses[-1] is None:
                break
        finite = all(bool(np.isfinite(moving[p.name]).all()) for p in manifest.parameters)
        return Tried(attempt=attempt, losses=tuple(losses), finite=finite)

    def tune(self) -> None:
        """Run `personal.onnx` once, if there is one. Its loss need not fall: a device keeps what
        does better, and nothing else."""
        personal = self._manifest.tuning
        if personal is None:
            return
        session = _session(self._folder / PERSONAL_NAME)
        given = self._weights | examples(self._job.draws, self._job.batch, 1.0)
        given |= {s.name: np.full(s.shape, s.fill, np.float32) for s in personal.state}
        rng = np.random.default_rng(2)
        for draw in personal.draws:
            given[draw.name] = rng.random((self._job.batch, *draw.shape)).astype(np.float32)
        given["learning_rate"] = np.asarray(personal.learning_rate, np.float32)
        taken = {i.name for i in session.get_inputs()}
        session.run(None, {n: a for n, a in given.items() if n in taken})

    def evaluate(self) -> None:
        """Run `evaluate.onnx` once."""
        session = _session(self._folder / "evaluate.onnx")
        given = self._weights | examples(self._job.draws, self._job.batch, 1.0)
        taken = {i.name for i in session.get_inputs()}
        session.run(None, {n: a for n, a in given.items() if n in taken})


def _session(path: Path) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Read the job, do it, print the report."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    resource.setrlimit(resource.RLIMIT_DATA, (job.memory, job.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        report = work(job)
    except Orphaned:
        shutil.rmtree(job.folder, ignore_errors=True)
        os._exit(1)
    sys.stdout.buffer.write(msgspec.json.encode(report))
    sys.stdout.buffer.flush()
    os._exit(0)  # nothing is left to do, and the runtime takes its time to go


if __name__ == "__main__":
    main()
