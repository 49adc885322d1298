"""What everything in one process of the coordinator shares."""

from dataclasses import dataclass
from pathlib import Path

from coordinator.hand import Hand
from coordinator.metrics import Metrics
from coordinator.store.blobs import Blobs
from coordinator.store.parts import Parts
from coordinator.store.sql import Store
from schedules.clock import Clock


@dataclass(frozen=True)
class Services:
    """One process's. `node` is its name among those over the same store: a new one each start.
    `scratch` is a folder for what need not outlive the process.

    `hand` decodes and sums updates, for all tasks."""

    node: str
    store: Store
    blobs: Blobs
    parts: Parts
    scratch: Path
    clock: Clock
    metrics: Metrics
    hand: Hand
