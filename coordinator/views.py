"""What the admin API answers: typed, so that the command line and scripts can rely on it."""

import statistics

import msgspec

from coordinator.store.records import EvaluationRecord, RoundRecord
from wire.messages import Facts


class MetricView(msgspec.Struct, frozen=True, kw_only=True):
    """A metric of one version over the devices that evaluated it, weighted by their examples."""

    name: str
    mean: float
    worst: float
    devices: int
    examples: int


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task at a glance. `deadline` is in seconds left; `None` before the first assignment."""

    name: str
    state: str
    plan: str
    model: str
    version: int
    weights: int
    round: int
    phase: str
    goal: int
    minimum: int
    working: int
    arrived: int
    deadline: float | None
    metrics: dict[int, list[MetricView]] = {}


class RoundSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A round at a glance. `version` is that of the model it trains from; of its `places`,
    `working` devices are at work, `dropped` came to nothing. Times in seconds since the epoch."""

    task: str
    number: int
    version: int
    phase: str
    reason: str | None
    places: int
    working: int
    updates: int
    dropped: int
    examples: int
    opened: float
    started: float | None
    ended: float | None


def summary(row: RoundRecord) -> RoundSummary:
    """A round's record, for those who ask."""
    return RoundSummary(
        task=row.task,
        number=row.number,
        version=row.version,
        phase=row.phase,
        reason=row.reason,
        places=row.places,
        working=row.working,
        updates=row.arrived,
        dropped=row.dropped,
        examples=row.examples,
        opened=row.opened,
        started=row.started,
        ended=row.ended,
    )


class TaskDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A task with its definition and last rounds."""

    task: TaskView
    definition: str
    rounds: list[RoundSummary]


class AssignmentView(msgspec.Struct, frozen=True, kw_only=True):
    """What one device did in a round. Times in seconds from the round's first assignment."""

    id: str
    device: str
    state: str
    reason: str | None
    detail: str | None
    assigned: float
    ended: float | None
    bytes: int | None
    examples: int | None
    loss: float | None


class RoundView(msgspec.Struct, frozen=True, kw_only=True):
    """A round and everyone in it."""

    round: RoundSummary
    assignments: list[AssignmentView]


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device; `seen` is seconds ago."""

    id: str
    name: str
    labels: dict[str, str]
    facts: Facts
    seen: float


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for an enrolment token; `lifetime` in seconds."""

    uses: int = 1
    lifetime: float = 86400.0


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolment token, shown once."""

    token: str


class NewTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task to start: its file's text, and the digests of blobs put before."""

    definition: str
    plan: str
    model: str


def summarise(
    evaluations: list[EvaluationRecord], better: dict[str, str]
) -> dict[int, list[MetricView]]:
    """Metrics by version. `better` says for each metric whether `higher` or `lower` is better."""
    versions: dict[int, list[EvaluationRecord]] = {}
    for evaluation in evaluations:
        versions.setdefault(evaluation.version, []).append(evaluation)
    return {
        version: [_metric(name, found, higher == "higher") for name, higher in better.items()]
        for version, found in versions.items()
    }


def _metric(name: str, found: list[EvaluationRecord], higher: bool) -> MetricView:
    values = [e.metrics[name] for e in found]
    weights = [float(e.examples) for e in found]
    return MetricView(
        name=name,
        mean=statistics.fmean(values, weights),
        worst=min(values) if higher else max(values),
        devices=len(found),
        examples=sum(e.examples for e in found),
    )
