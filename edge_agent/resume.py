"""The training checkpoint: a training that was stopped, on the disk, to go on from there.

Safetensors of the weights and the optimiser's state, with what they belong to and how far they got
in the metadata. Examples may have come and gone meanwhile: training goes on over those there are;
over the same ones, it ends in the same bytes as if it had never been stopped.
"""

from pathlib import Path

import msgspec

from wire import tensors
from wire.checkpoint import FLOAT32, Weights
from wire.errors import Rule, WireError
from wire.files import write_durably
from wire.messages import Assignment
from wire.plan import Manifest
from wire.strict import decode_json

_KEY = "training"
_LIMIT = 1 << 12


class Progress(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How far a training is: whole `epochs`, `batches` of the next one with their summed `loss`,
    `steps` in all, and `seconds` over all sittings. `last` is the summed loss of the last whole
    epoch."""

    epochs: int = 0
    batches: int = 0
    steps: int = 0
    loss: float = 0.0
    last: float = 0.0
    seconds: float = 0.0


class _Note(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    assignment: str
    plan: str
    model: str
    progress: Progress


def save(path: Path, work: Assignment, progress: Progress, values: Weights) -> None:
    """Keep a training; `values` are weights and state by name. Raises `OSError`."""
    note = _Note(assignment=work.id, plan=work.plan, model=work.model, progress=progress)
    write_durably(path, tensors.write(values, {_KEY: msgspec.json.encode(note).decode()}))


def load(path: Path, work: Assignment, manifest: Manifest) -> tuple[Progress, Weights] | None:
    """What was kept for this very work; `None` when there is nothing, or nothing of use."""
    try:
        return _read(path.read_bytes(), work, manifest)
    except (OSError, WireError):
        return None


def _read(data: bytes, work: Assignment, manifest: Manifest) -> tuple[Progress, Weights]:
    tensors_of_plan = (*manifest.parameters, *manifest.state)
    schema = {t.name: tensors.Spec(FLOAT32, t.shape) for t in tensors_of_plan}
    values, notes = tensors.read(data, schema, _LIMIT)
    note = decode_json(notes.get(_KEY, "").encode(), _Note, _LIMIT)
    if (note.assignment, note.plan, note.model) != (work.id, work.plan, work.model):
        raise WireError(Rule.BAD_FORMAT, "a checkpoint of other work")
    counts = (note.progress.epochs, note.progress.batches, note.progress.steps)
    if min(counts) < 0 or note.progress.seconds < 0 or note.progress.epochs > manifest.epochs:
        raise WireError(Rule.BAD_FORMAT, "a checkpoint of impossible progress")
    return note.progress, values
