"""The metrics: one entry each. A metric is a sum over the batch; `wire.plan.Metric` says the rest.

That a metric suits the task's loss is checked with the task file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from coordinator.compiler.graph import FLOAT, Emitter
from coordinator.compiler.losses import Loss
from wire.plan import Metric

Total = Callable[[Emitter, Loss[Any], str, str], str]
"""Emits the sum over the batch, a float32 scalar, from the loss, the output and the target."""


@dataclass(frozen=True)
class Entry:
    """What a metric is, and how its sum over a batch is computed."""

    metric: Metric
    total: Total


def _loss(emit: Emitter, loss: Loss[Any], output: str, target: str) -> str:
    return loss.total(emit, output, target)


def _accuracy(emit: Emitter, loss: Loss[Any], output: str, target: str) -> str:
    best = emit.op("ArgMax", output, axis=1, keepdims=0)
    right = emit.op("Cast", emit.op("Equal", best, target), to=FLOAT)
    return emit.op("ReduceSum", right, emit.const([0], np.int64), keepdims=0)


METRICS: dict[str, Entry] = {
    "loss": Entry(Metric(name="loss", better="lower"), _loss),
    "accuracy": Entry(Metric(name="accuracy", better="higher"), _accuracy),
    "rmse": Entry(Metric(name="rmse", reduce="root_mean", better="lower"), _loss),
}
