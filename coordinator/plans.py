"""A task's plan: whole, and compiled from the task file that comes with it."""

import asyncio

from coordinator import exact
from coordinator.aggregation.options import Scaffold, kind_of
from coordinator.codec_choice import TooSmall, choose
from coordinator.compiler.rates import schedule_of
from coordinator.store.blobs import Blobs
from coordinator.taskfile import AnyTask, StatisticsFile, TaskFile
from wire import checkpoint
from wire.errors import Rule, WireError
from wire.onnx_fields import BadModel, check_places
from wire.plan import CHECKPOINT_NAME, FROZEN_NAME, Manifest, parse_manifest


async def check_plan(blobs: Blobs, plan: str, model: str) -> Manifest:
    """The manifest of a plan all of whose files are stored, as is its first model. Raises
    `NotFound` or `WireError`."""
    manifest = parse_manifest(await blobs.get(plan))
    first = await blobs.get(model)
    for name, file in manifest.files.items():
        data = await blobs.get(file.digest)
        if len(data) != file.bytes:
            raise WireError(Rule.BAD_DIGEST, f"{name} is not of the size stated")
        if name != FROZEN_NAME:
            outside = files_beside(name, manifest, len(first))
            await asyncio.to_thread(_check_graph, name, data, outside)
    await asyncio.to_thread(checkpoint.read, first, manifest.checkpoint)
    return manifest


def files_beside(name: str, manifest: Manifest, checkpoint_bytes: int) -> dict[str, int]:
    """Where the weights of this graph of a plan may lie, and the bytes of each such file."""
    frozen = manifest.files.get(FROZEN_NAME)
    files = {FROZEN_NAME: frozen.bytes} if frozen else {}
    return files | ({CHECKPOINT_NAME: checkpoint_bytes} if name == "model.onnx" else {})


def _check_graph(name: str, data: bytes, files: dict[str, int]) -> None:
    try:
        check_places(data, files)
    except BadModel as error:
        raise WireError(Rule.BAD_FORMAT, f"{name}: {error}") from None


def contradictions(task: AnyTask, manifest: Manifest) -> list[str]:
    """Where a plan says otherwise than the task file that comes with it."""
    said: dict[str, tuple[object, object]] = {
        "name": (task.name, manifest.task),
        "training.epochs": (task.training.epochs, manifest.epochs),
        "training.batch": (task.training.batch, manifest.batch),
        "training.metrics": (task.training.metrics, tuple(m.name for m in manifest.metrics)),
        "training.proximal": (task.training.proximal, manifest.mu),
        "keep.tolerance": (task.keep.tolerance, manifest.may_be_worse_by),
        "upload.lazy": (task.upload.lazy, manifest.laziness),
    }
    if isinstance(task, TaskFile):
        rates = task.optimizer.learning_rate, manifest.learning_rate
        said["optimizer.learning_rate"] = rates
        said |= _personal(task, manifest)
        said["optimizer.schedule"] = schedule_of(task), manifest.schedule or None
    if isinstance(task, StatisticsFile):
        own, (first, *_) = task.statistics, manifest.inputs
        said["statistics.input"] = (own.input, first.name)
        said["statistics.shape"] = (own.shape, first.shape)
    found = [f"{key} is {a} in the task, {b} in the plan" for key, (a, b) in said.items() if a != b]
    if isinstance(task.aggregation, Scaffold) != bool(manifest.given):
        corrected = "corrects gradients" if manifest.given else "corrects no gradients"
        found.append(f"aggregation.kind is {kind_of(task.aggregation)}, and the plan {corrected}")
    try:
        codec_of(task, manifest)
    except TooSmall as error:
        found.append(f"upload.budget: {error}")
    return found


def _personal(task: TaskFile, manifest: Manifest) -> dict[str, tuple[object, object]]:
    """What each of the two says of personal models."""
    own, found = task.personal, manifest.tuning
    if own is None or found is None:
        return {"personal": (own and "a table", found and "a table")}
    rate = own.rate(task.optimizer.learning_rate)
    return {
        "personal.epochs": (own.epochs, found.epochs),
        "personal.learning_rate": (rate, found.learning_rate),
    }


def codec_of(task: AnyTask, manifest: Manifest) -> str:
    """The codec of the task's updates. Raises `TooSmall`."""
    if isinstance(task, StatisticsFile):
        return exact.CODEC
    upload, parameters = task.upload, manifest.parameters
    return choose(upload.codec, upload.budget, task.looks_at_each, parameters, task.adds_up)
