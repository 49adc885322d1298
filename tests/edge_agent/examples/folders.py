"""Examples of one small plan, and folders of them."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.examples import Examples, load
from edge_agent.examples.sqlite_store import create_store, quoted
from wire.plan import Input

X = Input(name="x", dtype="float32", shape=(2,))
LABEL = Input(name="label", dtype="int64", shape=(), classes=3)
INPUTS = (X, LABEL)


def some(count=6, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(count, 2)).astype(np.float32),
        "label": rng.integers(0, 3, size=count),
    }


def read(folder, inputs=INPUTS, columns=None) -> Examples:
    return load(folder, inputs, columns or {})


def reason(found: Examples) -> str:
    (only,) = found.reasons
    return only


def store(path: Path, rows: Sequence[tuple[Any, ...]] = (), inputs=INPUTS) -> Path:
    """An SQLite file for `inputs` with rows of (at, x.0, x.1, label), or whatever there is."""
    create_store(path, inputs, {})
    append(path, rows)
    return path


def append(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    """More rows, by another program."""
    db = sqlite3.connect(path, timeout=5)
    with db:
        for row in rows:
            marks = ", ".join("?" * len(row))
            names = [c[1] for c in db.execute("PRAGMA table_info(examples)")][1 : len(row) + 1]
            listed = ", ".join(quoted(name) for name in names)
            db.execute(f"INSERT INTO examples ({listed}) VALUES ({marks})", row)
    db.close()
