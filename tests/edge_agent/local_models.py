"""Models of local programs, each of which can be told from any other."""

from pathlib import Path
from typing import Any

import numpy as np

from edge_agent.keeping import graph_of
from edge_agent.models import Info, info_in
from edge_agent.onnx_file import Buffer, complete, raw_weights
from edge_agent.shelf import Shelf
from tests.edge_agent.plans import LINE, manifest_of, weights_of
from wire import checkpoint
from wire.digest import digest_of
from wire.plan import CHECKPOINT_NAME

NOW = "2026-07-01T12:00:00+02:00"


def weights(version: int) -> bytes:
    """A checkpoint of `LINE` whose every weight is `version`."""
    return checkpoint.write({n: np.full_like(a, version) for n, a in weights_of(LINE).items()})


def parts(version: int) -> list[Buffer]:
    """The complete model of those weights."""
    return complete((LINE / "model.onnx").read_bytes(), {CHECKPOINT_NAME: weights(version)})


def info(version: int, **changes: Any) -> Info:
    """What is known of it, with `changes`."""
    fields = {
        "task": "line",
        "version": version,
        "model": digest_of(weights(version)),
        "plan": manifest_of(LINE).digest(),
        "graph": graph_of(manifest_of(LINE)),
        "opset": 21,
        "inputs": (),
        "outputs": (),
        "metric": "loss",
        "value": 0.5,
        "held_out": 20,
        "code": "not_worse",
        "why": "loss 0.5, before 0.6",
        "adopted": NOW,
    }
    return Info(**(fields | changes))


def adopt(shelf: Shelf, version: int, **changes: Any) -> None:
    """Have local programs take this version."""
    shelf.write(parts(version))
    shelf.adopt(info(version, **changes))


def version_in(path: Path) -> int:
    """The version that a model's weights and its metadata agree on."""
    data = path.read_bytes()
    values = {float(v) for raw in raw_weights(data).values() for v in floats(raw)}
    assert values == {float(info_in(data, path).version)}
    return int(values.pop())


def floats(raw: Buffer) -> "np.ndarray[Any, Any]":
    """A tensor's plain bytes as numbers."""
    return np.frombuffer(raw, "<f4")
