"""A plan told in full: what `coordinator plan show` prints, and its JSON."""

import math
from collections import Counter

import msgspec
import onnx

from coordinator.compiler import convert
from coordinator.compiler.errors import CompileError
from coordinator.compiler.estimate import Estimate, estimate
from coordinator.compiler.plan import CompiledPlan
from wire.plan import CHECKPOINT_NAME, Manifest


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output. `shape` is of one example: without the batch axis. `classes` is of
    labels; `range` is the least and greatest value; `label` says that the model itself does not
    take it."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    classes: int | None = None
    range: tuple[float, float] | None = None
    label: bool = False


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """A trained tensor: its elements, and which part of all trained ones they are."""

    name: str
    shape: tuple[int, ...]
    size: int
    share: float


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor of the optimiser's memory, filled with `fill` at the start of a round."""

    name: str
    shape: tuple[int, ...]
    fill: float


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file that devices fetch: the plan's own once, the checkpoint with each model."""

    name: str
    bytes: int
    digest: str | None = None


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """What an update costs, about, on a made-up change."""

    codec: str
    bytes: int


class Personal(msgspec.Struct, frozen=True, kw_only=True):
    """How a device makes each model that it adopts its own: what moves, how often, how far."""

    weights: int
    names: tuple[str, ...]
    epochs: int
    learning_rate: float


class PlanReport(msgspec.Struct, frozen=True, kw_only=True):
    """All of a plan. `frozen` counts the elements of the model's constants; `operators` are of the
    training graph."""

    task: str
    digest: str
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    weights: int
    parameters: tuple[Weight, ...]
    frozen: int
    state: tuple[State, ...]
    metrics: tuple[str, ...]
    epochs: int
    batch: int
    learning_rate: float
    more: dict[str, object]
    files: tuple[File, ...]
    operators: dict[str, int]
    estimate: Estimate | None = None
    upload: Upload | None = None
    warnings: tuple[str, ...] = ()
    personal: Personal | None = None


_TOLD = frozenset({
    "format", "task", "inputs", "parameters", "state", "metrics", "epochs", "batch",
    "learning_rate", "opset", "files", "personal",
})  # fmt: skip
"""Keys of a manifest that have a place of their own in a report; the others are `more`."""


def report_of(plan: CompiledPlan, upload: Upload | None = None) -> PlanReport:
    """Everything that is known of a plan. Raises `CompileError` when its graphs are not ONNX."""
    manifest, warnings = plan.manifest, plan.warnings
    model, train = _graph(plan, "model.onnx"), _graph(plan, "train.onnx")
    try:
        estimated = estimate(manifest, plan.files)
    except CompileError as error:
        estimated, warnings = None, (*warnings, f"nothing can be estimated: {error}")
    return PlanReport(
        task=manifest.task,
        digest=manifest.digest(),
        opset=manifest.opset,
        inputs=_inputs(manifest, model),
        outputs=tuple(_output(info) for info in model.output),
        weights=manifest.weights,
        parameters=_weights(manifest),
        frozen=_frozen(model),
        state=tuple(State(name=s.name, shape=s.shape, fill=s.fill) for s in manifest.state),
        metrics=tuple(m.name for m in manifest.metrics),
        epochs=manifest.epochs,
        batch=manifest.batch,
        learning_rate=manifest.learning_rate,
        more={k: v for k, v in msgspec.to_builtins(manifest).items() if k not in _TOLD},
        files=_files(plan),
        operators=dict(Counter(node.op_type for node in train.node).most_common()),
        estimate=estimated,
        upload=upload,
        warnings=warnings,
        personal=_personal(manifest),
    )


def _graph(plan: CompiledPlan, name: str) -> onnx.GraphProto:
    try:
        return onnx.load_model_from_string(plan.files[name]).graph  # type: ignore[index]
    except Exception as error:
        raise CompileError(f"{name} of the plan is not an ONNX graph") from error


def _inputs(manifest: Manifest, model: onnx.GraphProto) -> tuple[Tensor, ...]:
    own = {info.name for info in model.input}
    return tuple(
        Tensor(
            name=i.name,
            dtype=i.dtype,
            shape=i.shape,
            classes=i.classes,
            range=None if i.range is msgspec.UNSET else i.range,
            label=i.name not in own,
        )
        for i in manifest.inputs
    )


def _output(info: onnx.ValueInfoProto) -> Tensor:
    known = convert.type_of(info)
    if known is None:
        return Tensor(name=info.name, dtype="unknown", shape=())
    return Tensor(name=info.name, dtype=known.dtype.name, shape=(known.shape or ())[1:])


def _weights(manifest: Manifest) -> tuple[Weight, ...]:
    total = max(manifest.weights, 1)
    return tuple(
        Weight(name=p.name, shape=p.shape, size=p.size, share=p.size / total)
        for p in manifest.parameters
    )


def _personal(manifest: Manifest) -> Personal | None:
    found = manifest.tuning
    if found is None:
        return None
    return Personal(
        weights=sum(p.size for p in manifest.parameters if p.name in found.weights),
        names=found.weights,
        epochs=found.epochs,
        learning_rate=found.learning_rate,
    )


def _frozen(model: onnx.GraphProto) -> int:
    """Elements of the model's constants that are not in the checkpoint; numbers that describe a
    shape are none."""
    return sum(
        math.prod(tensor.dims)
        for tensor in model.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and not any(e.value == CHECKPOINT_NAME for e in tensor.external_data)
    )


def _files(plan: CompiledPlan) -> tuple[File, ...]:
    own = (
        File(name=name, bytes=file.bytes, digest=file.digest)
        for name, file in plan.manifest.files.items()
    )
    return (*own, File(name=CHECKPOINT_NAME, bytes=len(plan.initial)))
