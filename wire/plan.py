"""The plan: everything a device needs to train a task, in standard ONNX operators.

A plan is a manifest and the files it names, each by digest and size. The plan's own digest is
that of the manifest's bytes. Its files:

* `train.onnx`     one optimiser step: a batch, the weights and the optimiser's state in; the mean
                   loss, the new weights and the new state out.
* `evaluate.onnx`  a batch and the weights in; each metric's sum over the batch out.
* `model.onnx`     the model alone, as local programs use it. Its trained weights are external
                   data at the offsets of `checkpoint.safetensors`: put a checkpoint of this plan
                   beside it under that name and it is a complete model.
* `frozen.bin`     optional: the large constants that training never changes, external data of
                   all three graphs, so that they are sent once and not with each model.

Names of graph inputs and outputs are part of the format:

* example inputs have the names in `Manifest.inputs`, each with a leading batch axis of any size;
* weights and optimiser state go in under their own names and come out as `next/<name>`;
* with a proximal term (`Manifest.proximal`), `train.onnx` also takes the weights that the round
  started from, as `base/<name>`: the same at every step;
* `learning_rate` is a float32 scalar input of `train.onnx`; `loss` is its float32 scalar output;
* metric sums come out as `metric/<name>`, float32 scalars.
"""

import math
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wire.digest import Digest, digest_of
from wire.errors import Rule, WireError
from wire.messages import Identifier
from wire.strict import decode_json

MANIFEST_LIMIT = 4 << 20
"""Bytes of a manifest, at most."""
PLAN_FILE_LIMIT = 1 << 30
"""Bytes of one file of a plan, at most."""
METADATA = "__metadata__"
"""A key of every checkpoint's header, so no tensor's name."""
CHECKPOINT_NAME = "checkpoint.safetensors"
FROZEN_NAME: Literal["frozen.bin"] = "frozen.bin"
BASE = "base/"
"""What `train.onnx` puts before a weight's name for its value at the start of the round."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Size = Annotated[int, Meta(ge=0, le=1 << 31)]
Shape = Annotated[tuple[Size, ...], Meta(max_length=8)]
FileName = Literal["train.onnx", "evaluate.onnx", "model.onnx", "frozen.bin"]
InputType = Literal["float32", "float64", "int32", "int64", "uint8", "bool"]


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the graphs that comes from the device's examples.

    `shape` is that of one example, without the batch axis. `classes`, for integer labels: every
    value must be at least 0 and below it.
    """

    name: Name
    dtype: InputType
    shape: Shape
    classes: Annotated[int, Meta(ge=1)] | None = None


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trained weight, float32: it travels in checkpoints and, as a delta, in updates."""

    name: Name
    shape: Shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Slot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor of optimiser state, float32, filled with `fill` when a round's training starts."""

    name: Name
    shape: Shape
    fill: float = 0.0


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure of merit. The value over n examples is sum / n, or sqrt(sum / n) for `root_mean`."""

    name: Name
    reduce: Literal["mean", "root_mean"] = "mean"
    better: Literal["higher", "lower"] = "lower"

    def value(self, total: float, examples: int) -> float:
        """The metric over `examples` examples whose sum is `total`."""
        mean = total / examples
        return math.sqrt(max(mean, 0.0)) if self.reduce == "root_mean" else mean


class PlanFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of the plan: its content address and its size in bytes."""

    digest: Digest
    bytes: Annotated[int, Meta(ge=0, le=PLAN_FILE_LIMIT)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The plan's table of contents. Its canonical JSON is what the plan's digest names."""

    format: Literal[1] = 1
    task: Identifier
    inputs: Annotated[tuple[Input, ...], Meta(min_length=1, max_length=64)]
    parameters: Annotated[tuple[Parameter, ...], Meta(min_length=1, max_length=10_000)]
    state: Annotated[tuple[Slot, ...], Meta(max_length=30_000)]
    metrics: Annotated[tuple[Metric, ...], Meta(min_length=1, max_length=32)]
    epochs: Annotated[int, Meta(ge=1, le=10_000)]
    batch: Annotated[int, Meta(ge=1, le=65_536)]
    learning_rate: Annotated[float, Meta(gt=0)]
    opset: Annotated[int, Meta(ge=13)]
    files: dict[FileName, PlanFile]
    tolerance: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    """Left out when it is 0, so that older agents read the manifests of most tasks."""
    proximal: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    """As `tolerance`: older agents refuse only the plans that they could not train."""
    lazy: Annotated[float, Meta(gt=0)] | UnsetType = UNSET
    """As `tolerance`: older agents refuse only the plans of lazy tasks."""

    @property
    def may_be_worse_by(self) -> float:
        """By how much a new model may be worse than the one before it, on a device's held-out
        examples, and still take its place there: in the unit of the first metric, which decides."""
        return 0.0 if self.tolerance is UNSET else self.tolerance

    @property
    def mu(self) -> float:
        """The weight of the proximal term: a device minimises loss + mu / 2 |w - base|^2, base
        being the weights that the round started from. 0 where there is none."""
        return 0.0 if self.proximal is UNSET else self.proximal

    @property
    def laziness(self) -> float:
        """A device reports when its change is at least so many times as long as the model's own
        movement a version (see `edge_agent.lazy`). 0: it always does."""
        return 0.0 if self.lazy is UNSET else self.lazy

    @property
    def bases(self) -> dict[str, str]:
        """The inputs of `train.onnx` for the round's first weights: parameter to input. Empty
        without a proximal term."""
        return {p.name: BASE + p.name for p in self.parameters} if self.mu else {}

    @property
    def weights(self) -> int:
        """Number of trained weights."""
        return sum(p.size for p in self.parameters)

    @property
    def checkpoint_limit(self) -> int:
        """Bytes that a checkpoint of this plan may have, at most; costs no import of numpy."""
        header = sum(1024 + 6 * len(p.name) for p in self.parameters)
        return 1024 + header + 4 * self.weights

    def to_bytes(self) -> bytes:
        """Canonical JSON: the same manifest always has the same bytes, hence the same digest."""
        return msgspec.json.encode(self, order="deterministic")

    def digest(self) -> str:
        """The plan's digest."""
        return digest_of(self.to_bytes())


def parse_manifest(data: bytes) -> Manifest:
    """Decode and check a manifest from the network. Raises `WireError`."""
    manifest = decode_json(data, Manifest, MANIFEST_LIMIT)
    for required in ("train.onnx", "evaluate.onnx", "model.onnx"):
        if required not in manifest.files:
            raise WireError(Rule.BAD_MESSAGE, f"the manifest names no {required}")
    names = [i.name for i in manifest.inputs]
    names += [p.name for p in manifest.parameters]
    names += [s.name for s in manifest.state]
    names += manifest.bases.values()
    if len(set(names)) != len(names):
        raise WireError(Rule.BAD_MESSAGE, "two tensors of the manifest have one name")
    if METADATA in names:
        raise WireError(Rule.BAD_MESSAGE, f"no tensor can be named {METADATA}")
    if len({m.name for m in manifest.metrics}) != len(manifest.metrics):
        raise WireError(Rule.BAD_MESSAGE, "two metrics of the manifest have one name")
    if manifest.to_bytes() != data:
        raise WireError(Rule.BAD_MESSAGE, "the manifest is not canonical JSON")
    return manifest
