"""Rows of the store, typed. Times are seconds since the epoch on the server's wall clock."""

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
    """A published model. Version 0 is the one the task was created with."""

    task: str
    version: int
    digest: str
    created: float


class RoundRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A round. `version` is the model it trains from; `started` is its first assignment."""

    task: str
    number: int
    version: int
    phase: str
    reason: str | None
    opened: float
    started: float | None
    ended: float | None
    updates: int
    examples: int


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
    """One device's work in one round and what became of it."""

    id: str
    task: str
    round: int
    device: str
    seed: int
    state: str
    reason: str | None
    detail: str | None
    assigned: float
    ended: float | None
    length: int | None
    digest: str | None
    examples: int | None
    loss: float | None


class Withdrawn(NamedTuple):
    """What the journal held of a device that left. `assignments`: their ids, by task. `dropped`: of
    its updates, those that no model is made from yet; `published`: those that one is made from."""

    assignments: dict[str, list[str]]
    dropped: int
    published: int


class EvaluationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A model's metrics on one device's held-out examples."""

    task: str
    version: int
    device: str
    examples: int
    metrics: dict[str, float]
