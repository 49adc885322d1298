"""What everything in one process of the coordinator shares."""

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from coordinator.metrics import Metrics
from coordinator.store.blobs import Blobs
from coordinator.store.parts import Parts
from coordinator.store.sql import Store
from schedules.clock import Clock


@dataclass(frozen=True)
class Services:
    """One process's. `node` is its name among those over the same store: a new one each start.
    `scratch` is a folder for what need not outlive the process.

    `hand` is the one thread that decodes and sums updates, for all tasks: it holds the interpreter
    most of the time, so more would only wait, and large buffers in many of them cost memory in
    each. More processes use more processors."""

    node: str
    store: Store
    blobs: Blobs
    parts: Parts
    scratch: Path
    clock: Clock
    metrics: Metrics
    hand: Executor
