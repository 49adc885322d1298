"""The compiled plans of `data`, examples for them, and the jobs to run on them."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_agent.examples import Examples
from edge_agent.job import Job
from tests.edge_agent.data import (
    ADAMW,
    DROPOUT,
    FLOWERS,
    LINE,
    PERSONAL,
    PROXIMAL,
    PROXIMAL_ADAMW,
    SCAFFOLD,
)
from tests.edge_agent.samples import assignment
from wire import checkpoint
from wire.checkpoint import Weights
from wire.plan import CHECKPOINT_NAME, Manifest, parse_manifest

__all__ = [
    "ADAMW",
    "DROPOUT",
    "FLOWERS",
    "LINE",
    "PERSONAL",
    "PROXIMAL",
    "PROXIMAL_ADAMW",
    "SCAFFOLD",
]


def manifest_of(plan: Path, **changes: Any) -> Manifest:
    """A plan's manifest, with `changes`."""
    manifest = parse_manifest((plan / "manifest.json").read_bytes())
    return msgspec.structs.replace(manifest, **changes)


def weights_of(plan: Path) -> Weights:
    """A plan's first weights."""
    data = (plan / CHECKPOINT_NAME).read_bytes()
    return checkpoint.read(data, manifest_of(plan).checkpoint)


def flowers(count: int = 100, seed: int = 3) -> Examples:
    """Three kinds of flowers that four measurements tell apart."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, size=count)
    centre = np.float32([[1, 0, 0, 1], [0, 1, 0, -1], [0, 0, 1, 0]])
    x = centre[label] + rng.normal(size=(count, 4), scale=0.3)
    return Examples({"x": x.astype(np.float32), "label": label})


def points(count: int = 60, seed: int = 3) -> Examples:
    """Points near a plane."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2)).astype(np.float32)
    target = x @ np.float32([[2], [-1]]) + 0.5 + rng.normal(size=(count, 1), scale=0.01)
    return Examples({"x": x, "target": target.astype(np.float32)})


def saved(folder: Path, examples: Examples) -> Path:
    """A folder with these examples in a file."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "examples.npz", **examples.arrays)
    return folder


def copied(plan: Path, folder: Path) -> Path:
    """A copy of a plan, to be damaged."""
    return Path(shutil.copytree(plan, folder))


def job_of(plan: Path, folder: Path, train: bool = True, **changes: Any) -> Job:
    """A job on `plan`, its examples and its update in `folder`, with `changes`."""
    examples = points() if plan.name == "line" else flowers()
    job = Job(
        plan=str(plan),
        model=str(plan / CHECKPOINT_NAME),
        examples=str(saved(folder / "examples", examples)),
        columns={},
        hold_out=0.2,
        threads=1,
        evaluate=True,
        assignment=assignment() if train else None,
        update=str(folder / "a-1.update") if train else None,
    )
    return msgspec.structs.replace(job, **changes)


def endless(folder: Path) -> Path:
    """A plan of more epochs than there is time for."""
    copied(FLOWERS, folder)
    (folder / "manifest.json").write_bytes(manifest_of(FLOWERS, epochs=10_000).to_bytes())
    return folder
