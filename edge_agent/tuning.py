"""The tuning of one sitting: whether it can be, now or later, and what came of it.

A failure is told, and leaves the published model as it is. A job that also trains leaves tuning to
the next one: no round waits for what only this device gets.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.examples import Examples
from edge_agent.job import Job
from edge_agent.limits import OutOfMemory
from edge_agent.personal import Tuned, tune
from edge_agent.session import BadPlan, CannotRun, Diverged, Preempted
from schedules.duration import human
from wire.checkpoint import Weights
from wire.digest import hex_of
from wire.plan import Manifest

_SEED_DIGITS = 15  # of a digest, in base 16: below 2^60


class Tuning:
    """`later`: it is another job's. `metrics` are those of the personal version once `personal` has
    made one, `why` says why there is none."""

    def __init__(
        self,
        job: Job,
        manifest: Manifest,
        weights: Weights,
        training: Examples,
        held_out: Examples,
        published: Mapping[str, float],
        now: Callable[[], float],
    ) -> None:
        """`published` are the metrics of `weights` over `held_out`. Use `tuning_of`."""
        self._job = job
        self._manifest = manifest
        self._weights = weights
        self._training = training
        self._held_out = held_out
        self._published = published
        self._now = now
        self.later = job.assignment is not None
        self.metrics: dict[str, float] = {}
        self.why = ""

    def personal(self) -> Tuned | None:
        """The personal version, where it is better than the published model."""
        end = self._now() + self._job.tuning_seconds
        try:
            tuned = self._tuned(lambda: self._now() >= end)
        except Preempted:
            self.why = f"not done in {human(self._job.tuning_seconds)}"
            return None
        except (Diverged, CannotRun, BadPlan, OutOfMemory) as error:
            self.why = str(error)
            return None
        metric = self._manifest.metrics[0].name
        if not all(map(math.isfinite, tuned.metrics.values())):
            self.why = f"its {metric} is {tuned.metrics[metric]}"
            return None
        self.metrics = dict(tuned.metrics)
        if tuned.better:
            return tuned
        figures = f"{metric} {tuned.metrics[metric]:.6g}, published {tuned.published[metric]:.6g}"
        self.why = f"it is not better: {figures}"
        return None

    def _tuned(self, stop: Callable[[], bool]) -> Tuned:
        offer = self._job.offer
        return tune(
            self._manifest,
            Path(self._job.plan),
            self._weights,
            self._training,
            self._held_out,
            threads=self._job.threads,
            seed=int(hex_of(offer.model)[:_SEED_DIGITS], 16) if offer else 0,
            stop=stop,
            published=self._published,
        )


def tuning_of(
    job: Job,
    manifest: Manifest,
    weights: Weights,
    training: Examples,
    held_out: Examples,
    published: Mapping[str, float] | None,
    now: Callable[[], float],
) -> Tuning | None:
    """The tuning that a job asks for; `None` for most plans, without examples of both kinds, and
    for a published model that is no model to begin with."""
    if manifest.tuning is None or not job.tuning_seconds or not len(training):
        return None
    if not published or not all(map(math.isfinite, published.values())):
        return None
    return Tuning(job, manifest, weights, training, held_out, published, now)
