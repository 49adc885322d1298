"""Rows of the store, typed. Times are seconds since the epoch on the store's clock."""

from typing import NamedTuple

import msgspec

from wire.messages import Facts


class TaskRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A task; `definition` is its task file, `plan` the digest of its manifest."""

    name: str
    state: str
    definition: str
    plan: str
    created: float


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A published model. Version 0 is the one the task was created with. `state` is the digest of
    what the server's optimiser remembers, if it does."""

    task: str
    version: int
    digest: str
    state: str | None = None
    created: float


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A round: see `coordinator.round.Round`. `phase` is `open` while it selects and reports;
    `closer` is the node that makes its model; `examples` those of the updates in it."""

    task: str
    number: int
    version: int
    phase: str
    reason: str | None
    places: int
    working: int
    arrived: int
    opened: float
    started: float | None
    ended: float | None
    closer: str | None
    examples: int
    dropped: int


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolled device; `secret` is hashed."""

    id: str
    name: str
    secret: str
    labels: dict[str, str]
    facts: Facts
    enrolled: float
    seen: float


class AssignmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One device's work and what became of it. `counted` is the round in which its update counts,
    `node` the process that has summed it, `tag` a number of its id's hash."""

    id: str
    task: str
    round: int
    version: int
    device: str
    seed: int
    state: str = "working"
    reason: str | None = None
    detail: str | None = None
    assigned: float
    ended: float | None = None
    counted: int | None = None
    node: str | None = None
    tag: int | None = None
    length: int | None = None
    digest: str | None = None
    examples: int | None = None
    steps: int | None = None
    loss: float | None = None


class StandingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a device in a task: see `coordinator.selection.Standing`. `round` is the
    last in which it had a place."""

    device: str
    task: str
    round: int
    accepted: int = 0
    failed: int = 0
    streak: int = 0
    failed_at: float | None = None
    examples: int | None = None
    seconds: float | None = None


class Withdrawn(NamedTuple):
    """What the store held of a device that left. `kept`: its updates that counted in open rounds,
    with their bytes. `dropped`: of its updates, those that no model is made from yet; `published`:
    those that one is made from."""

    assignments: list[AssignmentRecord]
    kept: list[tuple[AssignmentRecord, bytes | None]]
    dropped: int
    published: int


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A model's metrics on one device's held-out examples; `personal` are those of the device's own
    version of it, where there is one."""

    task: str
    version: int
    device: str
    examples: int
    metrics: dict[str, float]
    personal: dict[str, float] = {}


class MetricRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What devices say of one version, by a metric: see `coordinator.spread`. Which side is worst
    is not known here: `lowest_decile` and `highest_decile` are the means over a tenth of the
    devices on either side. Of the devices that `tried` a version of their own, so many have a
    higher value by it (`rising`), or a lower one (`falling`); the changes are over those that
    tried, `None` without any."""

    task: str
    version: int
    metric: str
    devices: int
    examples: int
    mean: float
    deviation: float
    lowest: float
    highest: float
    lowest_decile: float
    highest_decile: float
    tried: int = 0
    rising: int = 0
    falling: int = 0
    median_change: float | None = None
    mean_change: float | None = None
