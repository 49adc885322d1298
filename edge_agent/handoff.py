"""A published model on its way to local programs: measured, made this device's own if the task asks
for it, made complete, put on the shelf.

Runs in the training child only, which has numpy and ONNX Runtime loaded.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime as ort
from msgspec import structs

from edge_agent.errors import StateError
from edge_agent.keeping import Decision, Offer, Refused, Why, compare, foregone, graph_of
from edge_agent.models import Info, Tensor
from edge_agent.onnx_file import BadModel, complete, places, raw_weights
from edge_agent.session import BadPlan, CannotRun, open_session
from edge_agent.shelf import Shelf
from edge_agent.tuning import Tuning
from wire import checkpoint, tensors
from wire.checkpoint import Weights
from wire.errors import WireError
from wire.plan import CHECKPOINT_NAME, FROZEN_NAME, Manifest, Metric

Measure = Callable[[Weights], Mapping[str, float]]

_DTYPES = {"float": "float32", "double": "float64", "float16": "float16"}
_TO_REMEMBER = (Why.WORSE, Why.NOT_FINITE)
_LATER = Decision(keep=False, why=Why.LATER, detail="once this device's update is sent")
"""A model that is to be tuned is offered again, to a job that does nothing else."""


def hand_off(
    offer: Offer,
    plan: Path,
    manifest: Manifest,
    weights: bytes,
    held_out: int,
    metrics: Mapping[str, float] | None,
    measure: Measure,
    tuning: Tuning | None = None,
) -> Decision:
    """Decide on an offered model, and put it in its place if it is to be adopted.

    `plan` is the plan's folder; `weights` is the offered model's checkpoint, already checked;
    `metrics` are its metrics over `held_out` examples, `None` when none are held out. `measure`
    gives those of other weights over the same examples. With a `tuning`, a personal version that is
    better takes the published model's place in all of this. What goes wrong is a decision, too.
    """
    shelf = Shelf(Path(offer.folder))
    metric = manifest.metrics[0]
    new = None if metrics is None else metrics[metric.name]
    candidate = _Candidate(weights, new, held_out)
    try:
        decision = foregone(offer, manifest, new, shelf.current(), shelf.refused())
        if tuning and (decision is None or decision.keep):
            if tuning.later:
                return _LATER
            candidate = _better(candidate, metric, tuning)
        if decision is None and candidate.value is not None:
            old = _kept(shelf, plan, manifest, weights, measure)
            decision = compare(metric, manifest.may_be_worse_by, candidate.value, old)
        assert decision is not None  # without a hold-out it is foregone
        decision = structs.replace(decision, detail=decision.detail + candidate.note)
        if decision.keep:
            _adopt(shelf, offer, plan, manifest, candidate, decision)
        elif decision.why in _TO_REMEMBER:
            shelf.refuse(_refused(offer, decision))
    except (OSError, StateError, BadModel, BadPlan, CannotRun, WireError) as error:
        shelf.drop()
        return Decision(keep=False, why=Why.FAILED, detail=str(error))
    return decision


@dataclass(frozen=True)
class _Candidate:
    """What local programs may get: a checkpoint, and its deciding metric over `held_out` examples.
    `published` is that of the published model where this is the personal version of it. `note` is
    for people, after what was decided."""

    weights: bytes
    value: float | None
    held_out: int
    published: float | None = None
    note: str = ""


def _better(candidate: _Candidate, metric: Metric, tuning: Tuning) -> _Candidate:
    """The personal version, or the published model where it is not worse."""
    tuned = tuning.personal()
    if tuned is None:
        return replace(candidate, note=f"; no personal version: {tuning.why}")
    return _Candidate(
        weights=checkpoint.write(tuned.weights),
        value=tuned.metrics[metric.name],
        held_out=candidate.held_out,
        published=candidate.value,
        note=f"; made personal: {metric.name} {candidate.value:.6g} as published",
    )


def weights_of(model: bytes, graph: bytes, like: bytes, beside: Collection[str] = ()) -> bytes:
    """The checkpoint inside a complete model that was made of the plan's `graph`; `like` is any
    checkpoint of the plan, and its tensors `beside` the model's weights are taken over. Raises
    `BadModel`."""
    inside, taken = raw_weights(model), bytearray(like)
    lacking = {place for n, place in tensors.offsets(like).items() if n not in beside}
    for name, place in places(graph).items():
        if place.location != CHECKPOINT_NAME:
            continue
        found = inside.get(name)
        if found is None or len(found) != place.length:
            raise BadModel(f"its weight {name!r} is not where the plan has it")
        taken[place.offset : place.offset + place.length] = found
        lacking.discard((place.offset, place.length))
    if lacking:
        raise BadModel(f"{len(lacking)} weights are not in it")
    return bytes(taken)


def _kept(
    shelf: Shelf, plan: Path, manifest: Manifest, like: bytes, measure: Measure
) -> float | None:
    """The deciding metric of the model that local programs have, over the same examples; `None`
    when its file is damaged."""
    beside = {p.name for p in manifest.checkpoint} - {p.name for p in manifest.parameters}
    try:
        model, graph = shelf.path.read_bytes(), (plan / "model.onnx").read_bytes()
        weights = checkpoint.read(weights_of(model, graph, like, beside), manifest.checkpoint)
    except (OSError, BadModel, WireError):
        return None
    return measure(weights)[manifest.metrics[0].name]


def _adopt(
    shelf: Shelf,
    offer: Offer,
    plan: Path,
    manifest: Manifest,
    candidate: _Candidate,
    decision: Decision,
) -> None:
    """No model is adopted that ONNX Runtime cannot open."""
    outside = {CHECKPOINT_NAME: candidate.weights}
    if FROZEN_NAME in manifest.files:
        outside[FROZEN_NAME] = (plan / FROZEN_NAME).read_bytes()
    path = shelf.write(complete((plan / "model.onnx").read_bytes(), outside))
    session = open_session(path, threads=1)
    info = Info(
        task=offer.task,
        version=offer.version,
        model=offer.model,
        plan=offer.plan,
        graph=graph_of(manifest),
        opset=manifest.opset,
        inputs=tuple(_tensor(found) for found in session.get_inputs()),
        outputs=tuple(_tensor(found) for found in session.get_outputs()),
        metric=manifest.metrics[0].name,
        value=candidate.value,
        held_out=candidate.held_out,
        code=decision.why,
        why=decision.detail,
        adopted=offer.now,
        personal=candidate.published is not None,
        published=candidate.published,
    )
    shelf.adopt(info)


def _tensor(found: ort.NodeArg) -> Tensor:
    """ONNX Runtime calls types `tensor(float)`."""
    dtype = found.type.removeprefix("tensor(").removesuffix(")")
    return Tensor(name=found.name, dtype=_DTYPES.get(dtype, dtype), shape=tuple(found.shape))


def _refused(offer: Offer, decision: Decision) -> Refused:
    return Refused(
        version=offer.version,
        model=offer.model,
        why=decision.why,
        detail=decision.detail,
        when=offer.now,
    )
