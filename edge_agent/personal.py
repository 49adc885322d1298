"""A published model made this device's own: trained on, on its examples alone, and held against the
published one on those that are held out.

Nothing of it leaves the device but metrics. Runs in the training child, which has numpy and ONNX
Runtime loaded, and in simulations.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace

from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from edge_agent.session import Trainer, train
from wire.checkpoint import Weights
from wire.plan import PERSONAL_NAME, Manifest, Metric


@dataclass(frozen=True)
class Tuned:
    """A personal version. `weights` has all that a checkpoint has; `metrics` are the plan's over
    the held-out examples, `published` those of the published model. `better`: it is strictly
    better by the first of them."""

    weights: Weights
    metrics: Mapping[str, float]
    published: Mapping[str, float]
    better: bool


def tune(
    manifest: Manifest,
    plan_folder: Path,
    weights: Weights,
    examples: Examples,
    held_out: Examples,
    *,
    threads: int,
    seed: int,
    stop: Callable[[], bool],
    published: Mapping[str, float] | None = None,
) -> Tuned:
    """Make the published model, `weights`, this device's own, as `manifest.personal` says, and
    measure both: at least one example each to train on and held out.

    The same `seed` gives the same version. `published` are the model's metrics over `held_out`,
    where they are known. Asks `stop` after every batch. `weights` stay as they are.

    Raises `Preempted`; `Diverged` when a loss or a weight is not finite; `BadPlan`, `CannotRun`,
    `OutOfMemory`; `ValueError` for a plan without `personal`.
    """
    alone = _alone(manifest)
    if published is None:
        published = evaluate(manifest, plan_folder, weights, held_out, threads)
    trainer = Trainer(alone, plan_folder, weights, threads, seed=seed, graph=PERSONAL_NAME)
    train(trainer, alone, examples, np.random.default_rng(seed), stop)
    own = {**weights, **trainer.weights()}
    del trainer  # the evaluation has the memory to itself
    metrics = evaluate(manifest, plan_folder, own, held_out, threads)
    return Tuned(own, metrics, published, _is_better(manifest.metrics[0], metrics, published))


def _alone(manifest: Manifest) -> Manifest:
    """A manifest as if tuning were all of the training, so that the same code does it."""
    personal = manifest.tuning
    if personal is None:
        raise ValueError(f"the plan of {manifest.task!r} asks for no personal models")
    moved = set(personal.weights)
    return replace(
        manifest,
        parameters=tuple(p for p in manifest.parameters if p.name in moved),
        given=tuple(p for p in manifest.parameters if p.name not in moved) or UNSET,
        state=personal.state,
        draws=personal.draws or UNSET,
        epochs=personal.epochs,
        learning_rate=personal.learning_rate,
        schedule=UNSET,
        proximal=UNSET,
    )


def _is_better(metric: Metric, own: Mapping[str, float], published: Mapping[str, float]) -> bool:
    """Whether a metric is strictly better; what is not finite is not."""
    new, old = own[metric.name], published[metric.name]
    if not all(map(math.isfinite, (*own.values(), old))):
        return False
    return new > old if metric.better == "higher" else new < old
