"""The plan: everything a device needs to train a task, in standard ONNX operators.

A plan is a manifest and the files it names, each by digest and size. The plan's own digest is
that of the manifest's bytes. Its files:

* `train.onnx`     one optimiser step: a batch, the weights and the optimiser's state in; the mean
                   loss, the new weights and the new state out.
* `evaluate.onnx`  a batch and the weights in; each metric's sum over the batch out.
* `model.onnx`     the model alone, as local programs use it. Its trained weights are external
                   data at the offsets of `checkpoint.safetensors`: put a checkpoint of this plan
                   beside it under that name and it is a complete model.
* `personal.onnx`  optional: as `train.onnx`, by which a device makes the published model its own
                   (`Manifest.personal`).
* `frozen.bin`     optional: the large constants that training never changes, external data of
                   all the graphs, so that they are sent once and not with each model.

Names of graph inputs and outputs are part of the format:

* example inputs have the names in `Manifest.inputs`, each with a leading batch axis of any size;
* weights and optimiser state go in under their own names and come out as `next/<name>`; a carried
  slot that does not come out stays as it is for the whole of a round's training;
* what the coordinator sends beside the weights (`Manifest.given`) goes in under its own name, the
  same at every step;
* a slot's next value may be written to the memory of its present one: whatever else of `train.onnx`
  reads the present one runs before;
* with a proximal term (`Manifest.proximal`), `train.onnx` also takes the weights that the round
  started from, as `base/<name>`: the same at every step;
* with random numbers (`Manifest.draws`), `train.onnx` also takes a float32 tensor [batch, *shape]
  for each, uniform in [0, 1) and drawn anew at each step: dropout needs them;
* `learning_rate` is a float32 scalar input of `train.onnx`, which `Manifest.rate` tells for each
  step; `loss` is its float32 scalar output;
* `personal.onnx` takes all weights and changes those that `Personal.weights` names. It has its own
  state, random numbers and learning rate, and takes nothing that is given, and no `base/<name>`;
* metric sums come out as `metric/<name>`, float32, of the shape that `Metric` says.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wire.digest import Digest, digest_of
from wire.errors import Rule, WireError
from wire.messages import Identifier
from wire.rates import RateSchedule, rate
from wire.strict import decode_json

MANIFEST_LIMIT = 4 << 20
"""Bytes of a manifest, at most."""
PLAN_FILE_LIMIT = 1 << 30
"""Bytes of one file of a plan, at most."""
METRIC_LIMIT = 1 << 19
"""Elements of one metric's totals, at most."""
TENSOR_LIMIT = 1 << 40
"""Elements of one tensor of a manifest, at most: a batch of them still has its bytes counted in 64
bits, so that too large a one is found where memory is asked for."""
METADATA = "__metadata__"
"""A key of every checkpoint's header, so no tensor's name."""
CHECKPOINT_NAME = "checkpoint.safetensors"
FROZEN_NAME: Literal["frozen.bin"] = "frozen.bin"
TRAIN_NAME: Literal["train.onnx"] = "train.onnx"
PERSONAL_NAME: Literal["personal.onnx"] = "personal.onnx"
BASE = "base/"
"""What `train.onnx` puts before a weight's name for its value at the start of the round."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Size = Annotated[int, Meta(ge=0, le=1 << 31)]
Shape = Annotated[tuple[Size, ...], Meta(max_length=8)]
FileName = Literal["train.onnx", "evaluate.onnx", "model.onnx", "personal.onnx", "frozen.bin"]
InputType = Literal["float32", "float64", "int32", "int64", "uint8", "bool"]


class Input(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One input of the graphs that comes from the device's examples.

    `shape` is that of one example, without the batch axis. `classes`, for integer labels: every
    value must be at least 0 and below it, or be `ignored`. `range`: least and greatest value
    of what else is bounded, as a probability, or an index of a table.
    """

    name: Name
    dtype: InputType
    shape: Shape
    classes: Annotated[int, Meta(ge=1)] | None = None
    ignored: Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)] | UnsetType = UNSET
    """Left out where there is none, as `range`, so that older agents read most manifests."""
    range: tuple[float, float] | UnsetType = UNSET

    @property
    def ignored_label(self) -> int | None:
        """A label that is no class and counts nowhere; `None` where every label is a class."""
        return None if self.ignored is UNSET else self.ignored


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trained weight, float32: it travels in checkpoints and, as a delta, in updates."""

    name: Name
    shape: Shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class Slot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor of optimiser state, float32, filled with `fill` when a round's training starts.

    `carried` names the slot, of the same shape, whose last value in this device's last round that
    counted takes the place of `fill`: a device's own memory, which never leaves it.
    """

    name: Name
    shape: Shape
    fill: float = 0.0
    carried: Name | UnsetType = UNSET
    """As `Manifest.tolerance`: older agents refuse only the plans that have one."""


Reduce = Literal["mean", "root_mean", "ratio", "sum_of_ratios", "auc"]


class Metric(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure of merit, of totals that are summed over batches: so any batches give one value.

    `reduce` and `shape`, that of the totals:

    * `mean`, `root_mean`: a scalar (`shape` is left out); sum / n over n examples, or its root;
    * `ratio`: [2, k]; the mean of first row / second row, where the second is above 0;
    * `sum_of_ratios`: the same, but their sum;
    * `auc`: [2, bins] or [2, classes, bins], histograms of the scores of positives and of
      negatives, ascending; the area under the ROC curve, ties counting a half, as a mean over the
      classes that have both.

    Where nothing counts at all, ratios give 0 and `auc` a half.
    """

    name: Name
    reduce: Reduce = "mean"
    better: Literal["higher", "lower"] = "lower"
    shape: Annotated[tuple[Size, ...], Meta(max_length=3)] | UnsetType = UNSET

    @property
    def totals(self) -> Shape:
        """The shape of the totals; () for a scalar."""
        return () if self.shape is UNSET else self.shape

    def value(self, totals: Sequence[float] | float, examples: int) -> float:
        """The metric over `examples` examples. `totals` are summed over them: a number, or the
        elements of the array one after the other, its last axis fastest."""
        if isinstance(totals, int | float):
            mean = totals / examples
            return math.sqrt(max(mean, 0.0)) if self.reduce == "root_mean" else mean
        half = len(totals) // 2
        first, second = totals[:half], totals[half:]
        if self.reduce == "auc":
            return _mean(_areas(first, second, self.totals[-1]), 0.5)
        ratios = [a / b for a, b in zip(first, second, strict=True) if b > 0]
        return math.fsum(ratios) if self.reduce == "sum_of_ratios" else _mean(ratios, 0.0)

    def fits(self) -> bool:
        """Whether the shape is one that the reduction takes, and of a size that a device can."""
        scalar = self.reduce in ("mean", "root_mean")
        ranks = (0,) if scalar else (2, 3) if self.reduce == "auc" else (2,)
        right = len(self.totals) in ranks and self.totals[:1] in ((), (2,))
        return (
            right and scalar == (self.shape is UNSET) and 0 < math.prod(self.totals) <= METRIC_LIMIT
        )


def _areas(positives: Sequence[float], negatives: Sequence[float], bins: int) -> list[float]:
    """The part of pairs in which the positive has the higher score, of each class with pairs."""
    areas = []
    for start in range(0, len(positives), bins):
        below = won = 0.0
        ours = positives[start : start + bins]
        for positive, negative in zip(ours, negatives[start : start + bins], strict=True):
            won += positive * (below + negative / 2)
            below += negative
        if pairs := math.fsum(ours) * below:
            areas.append(won / pairs)
    return areas


def _mean(values: Sequence[float], of_none: float) -> float:
    return math.fsum(values) / len(values) if values else of_none


class Draw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Random numbers that `train.onnx` takes at each step: float32, uniform in [0, 1), `shape` for
    each example of the batch."""

    name: Name
    shape: Shape


class Personal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device makes each published model its own, for its local programs alone: so many passes
    over its training examples with `personal.onnx`, whose learning rate stays as it is.

    `weights` names the parameters that it changes. `state` and `draws` are what those of the
    manifest are for `train.onnx`; nothing is carried from one time to the next.
    """

    epochs: Annotated[int, Meta(ge=1, le=10_000)]
    learning_rate: Annotated[float, Meta(gt=0)]
    weights: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=10_000)]
    state: Annotated[tuple[Slot, ...], Meta(max_length=30_000)] = ()
    draws: Annotated[tuple[Draw, ...], Meta(max_length=1000)] = ()


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
    given: Annotated[tuple[Parameter, ...], Meta(min_length=1, max_length=10_000)] | UnsetType = (
        UNSET
    )
    """Tensors that the coordinator sends with each model's weights, for `train.onnx` to take. They
    only travel down: no device changes them, so updates do not have them. As `tolerance`."""
    schedule: RateSchedule | UnsetType = UNSET
    """As `tolerance`: older agents refuse only the plans whose rate changes."""
    draws: Annotated[tuple[Draw, ...], Meta(min_length=1, max_length=1000)] | UnsetType = UNSET
    """As `tolerance`: older agents refuse only the plans whose training needs random numbers."""
    personal: Personal | UnsetType = UNSET
    """As `tolerance`: older agents refuse only the plans that ask for personal models."""

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

    def rate(self, version: int, step: int, steps: int) -> float:
        """The learning rate of a step of a round: the step's number, from 0, of `steps` that there
        are in the round, which starts from the model `version`."""
        if self.schedule is UNSET:
            return self.learning_rate
        return rate(self.schedule, self.learning_rate, version, step, steps)

    @property
    def drawn(self) -> tuple[Draw, ...]:
        """The random numbers that `train.onnx` takes; none for most plans."""
        return () if self.draws is UNSET else self.draws

    @property
    def tuning(self) -> Personal | None:
        """How a device makes each published model its own; `None` for most plans."""
        return None if self.personal is UNSET else self.personal

    @property
    def bases(self) -> dict[str, str]:
        """The inputs of `train.onnx` for the round's first weights: parameter to input. Empty
        without a proximal term."""
        return {p.name: BASE + p.name for p in self.parameters} if self.mu else {}

    @property
    def checkpoint(self) -> tuple[Parameter, ...]:
        """What a checkpoint of this plan holds: the trained weights, and what is given."""
        return self.parameters + (() if self.given is UNSET else self.given)

    @property
    def carries(self) -> dict[str, str]:
        """What a device keeps for its next round: the slot that takes it, and the slot whose last
        value it is. Empty for most plans."""
        return {s.name: s.carried for s in self.state if s.carried is not UNSET}

    @property
    def weights(self) -> int:
        """Number of trained weights."""
        return sum(p.size for p in self.parameters)

    @property
    def checkpoint_limit(self) -> int:
        """Bytes that a checkpoint of this plan may have, at most; costs no import of numpy."""
        header = sum(1024 + 6 * len(p.name) for p in self.checkpoint)
        return 1024 + header + 4 * sum(p.size for p in self.checkpoint)

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
    _check_names(manifest)
    _check_sizes(manifest)
    if manifest.tuning:
        _check_personal(manifest, manifest.tuning)
    elif PERSONAL_NAME in manifest.files:
        raise WireError(Rule.BAD_MESSAGE, f"{PERSONAL_NAME} is there, and nothing said of it")
    shapes = {s.name: s.shape for s in manifest.state}
    for slot, source in manifest.carries.items():
        if shapes.get(source) != shapes[slot]:
            raise WireError(
                Rule.BAD_MESSAGE, f"slot {slot!r} carries {source!r}, which is no slot of its shape"
            )
    if len({m.name for m in manifest.metrics}) != len(manifest.metrics):
        raise WireError(Rule.BAD_MESSAGE, "two metrics of the manifest have one name")
    for metric in manifest.metrics:
        if not metric.fits():
            raise WireError(
                Rule.BAD_MESSAGE,
                f"metric {metric.name!r}: no {metric.reduce} has totals {list(metric.totals)}",
            )
    if manifest.to_bytes() != data:
        raise WireError(Rule.BAD_MESSAGE, "the manifest is not canonical JSON")
    return manifest


def _check_names(manifest: Manifest) -> None:
    """Every tensor has a name of its own."""
    names = [*(tensor.name for tensor in _tensors(manifest)), *manifest.bases.values()]
    if len(set(names)) != len(names):
        raise WireError(Rule.BAD_MESSAGE, "two tensors of the manifest have one name")
    if METADATA in names:
        raise WireError(Rule.BAD_MESSAGE, f"no tensor can be named {METADATA}")


def _check_sizes(manifest: Manifest) -> None:
    for tensor in _tensors(manifest):
        # What has no elements has a size all the same, to whoever multiplies the others first.
        if math.prod(size or 1 for size in tensor.shape) > TENSOR_LIMIT:
            raise WireError(
                Rule.BAD_MESSAGE, f"{tensor.name!r} has more elements than any memory holds"
            )


def _tensors(manifest: Manifest) -> list[Input | Parameter | Slot | Draw]:
    """All that the manifest names."""
    found: list[Input | Parameter | Slot | Draw] = [*manifest.inputs, *manifest.checkpoint]
    found += [*manifest.state, *manifest.drawn]
    if manifest.tuning:
        found += [*manifest.tuning.state, *manifest.tuning.draws]
    return found


def _check_personal(manifest: Manifest, personal: Personal) -> None:
    if PERSONAL_NAME not in manifest.files:
        raise WireError(Rule.BAD_MESSAGE, f"the manifest names no {PERSONAL_NAME}")
    if len(set(personal.weights)) != len(personal.weights):
        raise WireError(Rule.BAD_MESSAGE, "a personal weight is named twice")
    if unknown := sorted(set(personal.weights) - {p.name for p in manifest.parameters}):
        raise WireError(Rule.BAD_MESSAGE, f"personal weight {unknown[0]!r} is no parameter")
    if any(slot.carried is not UNSET for slot in personal.state):
        raise WireError(Rule.BAD_MESSAGE, "a slot of personal state is carried")
