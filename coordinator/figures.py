"""Metrics as the admin API tells them, and what figures can be at all."""

from collections.abc import Sequence

import msgspec

from coordinator.compiler.options.metrics import is_share
from coordinator.spread import Better, Gain, Spread
from coordinator.store.records import MetricRecord
from wire.plan import Metric

_LARGEST = 3.5e38  # float32's range: a lie beyond it would spoil every mean
_NOT_NEGATIVE = ("rmse", "mae")
_SLACK = 1e-3  # by which float32's sums of shares may be beside 0 or 1


class MetricView(Spread, frozen=True, kw_only=True):
    """A metric of one version over the devices that evaluated it; `better` says which values are.
    `worst` is that of one device; `personal` what those gain that have a version of their own,
    `None` where none has."""

    name: str
    better: Better
    worst: float
    personal: Gain | None = None


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """What devices say of one version of a task's model."""

    version: int
    metrics: list[MetricView]


class EvaluationsView(msgspec.Struct, frozen=True, kw_only=True):
    """What devices say of a task's versions, the newest first; of those that none evaluated there
    is nothing. So many versions, those `before` one, are `left`: not looked at, since that would
    have taken too long."""

    versions: list[VersionView]
    before: int
    left: int = 0


def can_be(name: str, value: float) -> bool:
    """Whether a metric of this name can have this value."""
    if is_share(name):
        return -_SLACK <= value <= 1 + _SLACK
    least = 0.0 if name.partition(":")[0] in _NOT_NEGATIVE else -_LARGEST
    return least <= value <= _LARGEST


def metric_views(found: Sequence[MetricRecord], metrics: Sequence[Metric]) -> list[MetricView]:
    """What devices say of a version, in the order of the manifest's metrics, which say which side
    is better."""
    said = {record.metric: record for record in found}
    return [_view(said[m.name], m.better) for m in metrics if m.name in said]


def _view(found: MetricRecord, better: Better) -> MetricView:
    higher = better == "higher"
    return MetricView(
        name=found.metric,
        better=better,
        devices=found.devices,
        examples=found.examples,
        mean=found.mean,
        deviation=found.deviation,
        worst=found.lowest if higher else found.highest,
        worst_decile=found.lowest_decile if higher else found.highest_decile,
        personal=_gain(found, higher),
    )


def _gain(found: MetricRecord, higher: bool) -> Gain | None:
    if found.median_change is None or found.mean_change is None:
        return None
    return Gain(
        devices=found.tried,
        gaining=found.rising if higher else found.falling,
        median=found.median_change if higher else -found.median_change,
        mean=found.mean_change if higher else -found.mean_change,
    )
