"""One sitting of a job, in the training child: from its files to its report and its update.

A training that is stopped is kept, if the job says where, and the next sitting goes on with it: it
makes the same update, bit for bit, as one that never was stopped.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_agent import examples as examples_module
from edge_agent import limits, resume, session
from edge_agent.carried import Carried
from edge_agent.course import Course, Stop
from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from edge_agent.examples.trimming import enforce
from edge_agent.handoff import hand_off
from edge_agent.job import Job, Outcome, Report
from edge_agent.reporting import Reported, Reporting
from edge_agent.sealed import Unusable
from edge_agent.tuning import tuning_of
from wire import checkpoint, update
from wire.checkpoint import Weights
from wire.errors import WireError
from wire.messages import Assignment
from wire.plan import Manifest, parse_manifest
from wire.tensors import Array


class _NoExamples(Exception):
    """There is nothing to work on."""


class _Unwritable(Exception):
    """The update cannot be written."""


_OUTCOMES = {
    _NoExamples: Outcome.NO_EXAMPLES,
    _Unwritable: Outcome.CRASHED,
    session.BadPlan: Outcome.BAD_PLAN,
    session.CannotRun: Outcome.CRASHED,
    session.Diverged: Outcome.DIVERGED,
    session.Preempted: Outcome.PREEMPTED,
}


def run(job: Job, listen: Callable[[], Stop], now: Callable[[], float] = time.monotonic) -> Report:
    """Do a job in this process.

    `listen` is called before the first batch, and what it returns after each: until then there is
    nothing to keep, and a signal may end the process at once. `now` is in seconds.
    """
    sitting = _Sitting(job, now)
    try:
        sitting.work(listen)
    except tuple(_OUTCOMES) as error:
        sitting.tell(outcome=_OUTCOMES[type(error)], detail=str(error) or sitting.report.detail)
    except MemoryError as error:
        limit = "the memory there is"
        if job.memory_limit is not None:
            limit = f"the memory limit of {job.memory_limit / 1e6:.1f} MB"
        why = str(error) or "no more is given"
        sitting.tell(outcome=Outcome.OUT_OF_MEMORY, detail=f"{limit} is too small: {why}")
    return sitting.report


class _Sitting:
    """What is known of a job so far: `report` is true at each moment."""

    def __init__(self, job: Job, now: Callable[[], float]) -> None:
        self._job = job
        self._now = now
        self.report = Report(outcome=Outcome.DONE)

    def tell(self, **changes: Any) -> None:
        """Put into the report."""
        self.report = msgspec.structs.replace(self.report, **changes)

    def work(self, listen: Callable[[], Stop]) -> None:
        """All of it. Raises one of `_OUTCOMES`, `MemoryError`."""
        job = self._job
        if job.memory_limit is not None and (refused := limits.hold_memory(job.memory_limit)):
            self.tell(refused=(refused,))
        folder = Path(job.plan)
        try:
            manifest = parse_manifest((folder / "manifest.json").read_bytes())
            published = Path(job.model).read_bytes()
            weights = checkpoint.read(published, manifest.checkpoint)
        except (OSError, WireError) as error:
            raise session.BadPlan(str(error)) from None
        training, held_out = self._examples(manifest)
        if job.evaluate:
            self._evaluate(manifest, published, weights, training, held_out)
        if len(training if job.assignment else held_out) == 0:
            raise _NoExamples(_nothing(job, self.report))
        del published, held_out  # training has the memory to itself
        if job.assignment and job.update:
            self._train(job.assignment, Path(job.update), manifest, weights, training, listen)

    def _evaluate(
        self,
        manifest: Manifest,
        published: bytes,
        weights: Weights,
        training: Examples,
        held_out: Examples,
    ) -> None:
        """Measure the published model, and offer it, or its personal version, to local programs.
        Nothing is kept if this is stopped: a signal ends the process at once."""
        job, folder = self._job, Path(self._job.plan)

        def measure(other: Weights) -> dict[str, float]:
            return evaluate(manifest, folder, other, held_out, job.threads)

        metrics = measure(weights) if len(held_out) else None
        # A figure that is not finite says nothing, and JSON cannot carry it.
        if metrics and all(math.isfinite(value) for value in metrics.values()):
            self.tell(metrics=metrics)
        if job.offer:
            size = len(held_out)
            tuning = tuning_of(job, manifest, weights, training, held_out, metrics, self._now)
            decision = hand_off(
                job.offer, folder, manifest, published, size, metrics, measure, tuning
            )
            self.tell(decision=decision)
            if tuning:
                self.tell(personal=tuning.metrics)

    def _examples(self, manifest: Manifest) -> tuple[Examples, Examples]:
        """(training, held out), of what is to be kept."""
        job = self._job
        trimmed = enforce(Path(job.examples), job.retention, time.time())
        found = examples_module.load(Path(job.examples), manifest.inputs, job.columns)
        training, held_out = found.split(job.hold_out)
        found.arrays.clear()  # the two have copies
        self.tell(
            trimmed=trimmed.examples,
            examples=len(training),
            held_out=len(held_out),
            skipped=found.skipped,
            detail="; ".join((*trimmed.problems, *found.reasons)),
        )
        return training, held_out

    def _train(
        self,
        assignment: Assignment,
        path: Path,
        manifest: Manifest,
        weights: Weights,
        training: Examples,
        listen: Callable[[], Stop],
    ) -> None:
        """Train, or go on with it, and write the update to `path`."""
        job = self._job
        reporting = _reporting(assignment, manifest, path, job.residuals)
        carried = Carried(assignment, manifest, path.parent, job.residuals)
        kept = self._kept(assignment, manifest, training)
        if kept:
            training = kept.examples
            self.tell(resumed_at=kept.standing.steps, examples=len(training))
        trainer = session.Trainer(
            manifest,
            Path(job.plan),
            weights,
            job.threads,
            kept.tensors if kept else None,
            kept.standing.steps if kept else 0,
            _begun(carried) if not kept else None,
            assignment.seed,
        )
        self.tell(forgot=carried.lost)
        course = Course(job, assignment, trainer, training, kept, self._now)
        del kept  # the trainer has copies
        rng = np.random.default_rng(assignment.seed)
        stop = course.watched(listen())
        try:
            trained = session.train(
                trainer, manifest, training, rng, stop, course.progress, assignment.version
            )
        except session.Preempted:
            self.tell(steps=trainer.steps, seconds=course.seconds())
            course.keep()
            raise
        header = update.UpdateHeader(
            assignment=assignment.id,
            plan=assignment.plan,
            base=assignment.model,
            codec=assignment.codec,
            examples=trained.examples,
            steps=trained.steps,
            loss=trained.loss,
            seconds=course.seconds(),
            skipped=self.report.skipped,
        )
        _end(carried, trainer)
        own = {p.name: weights[p.name] for p in manifest.parameters}
        reported = _write(reporting, header, own, trained.delta, rng)
        course.drop()
        self.tell(steps=header.steps, loss=header.loss, seconds=header.seconds)
        self.tell(nothing_new=reported.nothing, lost=reported.lost)

    def _kept(
        self, assignment: Assignment, manifest: Manifest, training: Examples
    ) -> resume.Kept | None:
        """A training to go on with. A file of any other is removed."""
        if self._job.checkpoint is None:
            return None
        path = Path(self._job.checkpoint)
        try:
            return resume.read(path, resume.origin_of(assignment), manifest, training)
        except Unusable as error:
            self.tell(restarted=str(error))
            resume.drop(path)
            return None


def _reporting(
    assignment: Assignment, manifest: Manifest, path: Path, residuals: str | None
) -> Reporting:
    """What will write the update. Raises `_Unwritable` for a codec that this agent does not know,
    before it trains in vain."""
    try:
        return Reporting(assignment, manifest, path, residuals)
    except WireError as error:
        raise _Unwritable(f"the update cannot be written: {error.detail}") from None


def _begun(carried: Carried) -> dict[str, Array]:
    """What the last round left. Raises `_Unwritable`, before it trains in vain."""
    try:
        return carried.begin()
    except OSError as error:
        raise _Unwritable(f"what was carried cannot be removed: {error.strerror}") from None


def _end(carried: Carried, trainer: session.Trainer) -> None:
    """What this round leaves. Raises `_Unwritable`."""
    try:
        carried.end(trainer.state())
    except OSError as error:
        raise _Unwritable(f"what is carried cannot be kept: {error.strerror}") from None


def _write(
    reporting: Reporting,
    header: update.UpdateHeader,
    weights: Weights,
    delta: Weights,
    rng: np.random.Generator,
) -> Reported:
    """Write the update. Raises `Diverged` when it is out of what can be told, `_Unwritable`."""
    try:
        return reporting.write(header, weights, delta, rng)
    except WireError as error:
        raise session.Diverged(error.detail) from None
    except OSError as error:
        # Not the path: the reason is told to the coordinator.
        raise _Unwritable(f"the update cannot be written: {error.strerror}") from None


def _nothing(job: Job, report: Report) -> str:
    """Why there is nothing to work on."""
    if report.examples or report.held_out:
        used = "all are held out" if report.held_out else "none is held out"
        return f"{report.examples + report.held_out} usable examples in {job.examples}: {used}"
    return f"no usable examples in {job.examples}: {report.detail or 'it is empty'}"
