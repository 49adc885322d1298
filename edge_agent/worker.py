"""The training child: `python -m edge_agent.worker PARENT`. A job on stdin, a report on stdout.

It holds numpy and ONNX Runtime so that the agent need not, and gives all memory back by ending.
SIGTERM stops it after the running batch. It dies with the agent, however the agent dies.
"""

import ctypes
import math
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import msgspec

from edge_agent.job import Job, Outcome, Report
from wire.files import write_durably

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read the job, do it, print the report."""
    _die_with(int(sys.argv[1]))
    os.nice(19)
    stopping = _Stop()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    report = run(job, stopping)
    report = msgspec.structs.replace(report, peak_bytes=_peak_bytes())
    sys.stdout.buffer.write(msgspec.json.encode(report))


class _Stop:
    """True once SIGTERM came."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


def run(job: Job, stop: "_Stop") -> Report:
    """Do a job in this process. Imports numpy and ONNX Runtime here, not before."""
    import numpy as np

    from edge_agent import examples as examples_module
    from edge_agent import session
    from wire import checkpoint, update
    from wire.errors import WireError
    from wire.plan import parse_manifest

    folder = Path(job.plan)
    try:
        manifest = parse_manifest((folder / "manifest.json").read_bytes())
        weights = checkpoint.read(Path(job.model).read_bytes(), manifest.parameters)
    except (OSError, WireError) as error:
        return Report(outcome=Outcome.BAD_PLAN, detail=str(error))
    found = examples_module.load(Path(job.examples), manifest.inputs, job.columns)
    training, held_out = found.split(job.hold_out)
    report = Report(
        outcome=Outcome.DONE,
        examples=len(training),
        held_out=len(held_out),
        skipped=found.skipped,
        detail="; ".join(found.reasons),
    )
    if len(training if job.assignment else held_out) == 0:
        return _replace(report, outcome=Outcome.NO_EXAMPLES, detail=_nothing(job, report))
    try:
        if job.evaluate and len(held_out):
            metrics = session.evaluate(manifest, folder, weights, held_out, job.threads)
            # A figure that is not finite says nothing, and JSON cannot carry it.
            if all(math.isfinite(value) for value in metrics.values()):
                report = _replace(report, metrics=metrics)
        if job.assignment is None or job.update is None:
            return report
        started = time.monotonic()
        trainer = session.Trainer(manifest, folder, weights, job.threads)
        rng = np.random.default_rng(job.assignment.seed)
        trained = session.train(trainer, manifest, training, rng, stop)
        seconds = time.monotonic() - started
    except session.BadPlan as error:
        return _replace(report, outcome=Outcome.BAD_PLAN, detail=str(error))
    except session.Diverged as error:
        return _replace(report, outcome=Outcome.DIVERGED, detail=str(error))
    except session.Preempted:
        return _replace(report, outcome=Outcome.PREEMPTED)
    header = update.UpdateHeader(
        assignment=job.assignment.id,
        plan=job.assignment.plan,
        base=job.assignment.model,
        codec=job.assignment.codec,
        examples=trained.examples,
        steps=trained.steps,
        loss=trained.loss,
        seconds=seconds,
        skipped=found.skipped,
    )
    write_durably(Path(job.update), update.write(header, trained.delta, rng))
    return _replace(report, steps=trained.steps, loss=trained.loss, seconds=seconds)


def _nothing(job: Job, report: Report) -> str:
    """Why there is nothing to work on."""
    if report.examples or report.held_out:
        used = "all are held out" if report.held_out else "none is held out"
        return f"{report.examples + report.held_out} usable examples in {job.examples}: {used}"
    return f"no usable examples in {job.examples}: {report.detail or 'it is empty'}"


def _replace(report: Report, **changes: object) -> Report:
    return msgspec.structs.replace(report, **changes)


def _peak_bytes() -> int:
    """The most memory this process held. `getrusage` would count its parent's before the exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the agent is gone")


if __name__ == "__main__":
    main()
