"""`[training]`: what a device does in a round, and how models are measured."""

from typing import Annotated

from msgspec import Meta

from coordinator.compiler.options.metrics import MetricName
from coordinator.compiler.options.section import NotNegative, Section


class Training(Section, frozen=True, kw_only=True):
    """What one device does in one round: so many passes over its examples, in batches.

    `proximal` is FedProx's mu (Li et al., 2020): the device minimises loss + mu / 2 |w - base|^2,
    base being the model that the round started from. 0 is plain FedAvg.
    """

    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 1
    batch: Annotated[int, Meta(ge=1, le=65_536)] = 10
    metrics: Annotated[tuple[MetricName, ...], Meta(min_length=1, max_length=32)] = ("loss",)
    proximal: NotNegative = 0.0
