"""A plan made by hand: a coordinator never opens the graphs, so its tests need no compiler."""

from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from coordinator.client import AdminClient
from edge_agent.onnx_file import note
from wire import checkpoint
from wire.checkpoint import Weights
from wire.digest import digest_of
from wire.plan import Input, Manifest, Metric, Parameter, PlanFile

PARAMETERS = (Parameter(name="w", shape=(4, 3)), Parameter(name="b", shape=(3,)))


class Plan(NamedTuple):
    """What `coordinator task create` sends."""

    definition: str
    manifest: Manifest
    files: list[bytes]
    initial: bytes

    async def create(self, admin: AdminClient) -> None:
        """Start the task."""
        await admin.create(self.definition, self.manifest.to_bytes(), [*self.files, self.initial])


def task_file(name: str = "digits", sections: str = "", **round_keys: object) -> str:
    """A task file's text; `round_keys` go to `[round]`, `sections` after it."""
    keys = {"goal": 2, "deadline": "1h"} | round_keys
    lines = [
        f"{k} = {v!r}".replace("'", '"') if isinstance(v, str) else f"{k} = {v}"
        for k, v in keys.items()
    ]
    return "\n".join(
        [
            f'name = "{name}"',
            '[model]\nfile = "model.onnx"',
            '[loss]\nkind = "cross_entropy"',
            '[optimizer]\nkind = "sgd"\nlearning_rate = 0.1',
            '[training]\nmetrics = ["loss", "accuracy"]',
            "[upload]\ncodec = 'float32'" if "[upload]" not in sections else "",
            "[round]",
            *lines,
            sections,
        ]
    )


def plan(
    name: str = "digits",
    sections: str = "",
    parameters: tuple[Parameter, ...] = PARAMETERS,
    files: dict[str, bytes] | None = None,
    initial: Weights | None = None,
    given: tuple[Parameter, ...] = (),
    **round_keys: object,
) -> Plan:
    """A task `name` over `parameters`; the graphs are three small files without a node. What is
    `given` with its first model is zero, unless it is in `initial`."""
    files = files or {f"{n}.onnx": graph(f"{n} of {name}" * 40) for n in GRAPHS}
    first = checkpoint.write(constant(0.0, given) | (initial or weights(parameters)))
    manifest = Manifest(
        task=name,
        inputs=(Input(name="x", dtype="float32", shape=(4,)),),
        parameters=parameters,
        state=(),
        metrics=(Metric(name="loss"), Metric(name="accuracy", better="higher")),
        epochs=1,
        batch=10,
        learning_rate=0.1,
        opset=17,
        files={n: PlanFile(digest=digest_of(d), bytes=len(d)) for n, d in files.items()},  # type: ignore[misc]
        given=given or UNSET,
    )
    return Plan(task_file(name, sections, **round_keys), manifest, list(files.values()), first)


GRAPHS = ("train", "evaluate", "model")


def graph(text: str) -> bytes:
    """An ONNX file with nothing in it but this key of its metadata."""
    return note(text, "")


def weights(parameters: tuple[Parameter, ...] = PARAMETERS, seed: int = 7) -> Weights:
    """Random weights, or a random delta."""
    rng = np.random.default_rng(seed)
    return {p.name: rng.normal(size=p.shape, scale=0.1).astype("<f4") for p in parameters}


def constant(value: float, parameters: tuple[Parameter, ...] = PARAMETERS) -> Weights:
    """Weights, or a delta, that are `value` everywhere."""
    return {p.name: np.full(p.shape, value, "<f4") for p in parameters}
