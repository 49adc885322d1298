"""A training that was stopped, in a file: what it needs to go on as if it never had been.

Safetensors of the weights and the optimiser's state, and in the metadata where the training stood,
what it belongs to, and a digest of it all: a file that is damaged, cut short, foreign or of another
training is never gone on with.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from edge_agent import sealed
from edge_agent.examples import Examples
from edge_agent.sealed import Unusable
from edge_agent.session import Progress
from wire import tensors
from wire.checkpoint import FLOAT32
from wire.errors import WireError
from wire.messages import Assignment
from wire.plan import Manifest
from wire.strict import decode_json
from wire.tensors import Array

_KIND = "training"
_Hex128 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{1,32}\Z")]


class Origin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a training belongs to. Another numpy may shuffle otherwise from the same state."""

    assignment: str
    seed: int
    plan: str
    model: str
    numpy: str


class _Shuffle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state of a PCG64: its two numbers of 128 bits are too long for JSON."""

    state: _Hex128
    inc: _Hex128
    has_uint32: Annotated[int, Meta(ge=0, le=1)]
    uinteger: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]


class Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a training stood, after `steps` steps and `seconds` seconds in all its sittings.

    It trains on `examples` examples with the digest `data`. `epoch`, `position`, `loss` and
    `shuffle` are those of `session.Progress`.
    """

    format: Literal[1] = 1
    origin: Origin
    examples: Annotated[int, Meta(ge=1)]
    data: str
    epoch: Annotated[int, Meta(ge=0)]
    position: Annotated[int, Meta(ge=0)]
    steps: Annotated[int, Meta(ge=0)]
    loss: float
    seconds: Annotated[float, Meta(ge=0)]
    shuffle: _Shuffle

    def progress(self) -> Progress:
        """As the training left it."""
        numbers = {"state": int(self.shuffle.state, 16), "inc": int(self.shuffle.inc, 16)}
        drawing = {
            "bit_generator": "PCG64",
            "state": numbers,
            "has_uint32": self.shuffle.has_uint32,
            "uinteger": self.shuffle.uinteger,
        }
        return Progress(self.epoch, self.position, self.loss, drawing)


class Kept(NamedTuple):
    """A training to go on with: where it stood, its weights and its optimiser's state, and the
    examples it is over."""

    standing: Standing
    tensors: Mapping[str, Array]
    examples: Examples


def origin_of(assignment: Assignment) -> Origin:
    """What a training of this assignment, on this machine, belongs to."""
    return Origin(
        assignment=assignment.id,
        seed=assignment.seed,
        plan=assignment.plan,
        model=assignment.model,
        numpy=np.__version__,
    )


def standing_of(
    origin: Origin, examples: int, data: str, progress: Progress, steps: int, seconds: float
) -> Standing:
    """Where a training stands now."""
    drawing = progress.shuffle
    return Standing(
        origin=origin,
        examples=examples,
        data=data,
        epoch=progress.epoch,
        position=progress.position,
        steps=steps,
        loss=progress.loss,
        seconds=seconds,
        shuffle=_Shuffle(
            state=f"{drawing['state']['state']:x}",
            inc=f"{drawing['state']['inc']:x}",
            has_uint32=drawing["has_uint32"],
            uinteger=drawing["uinteger"],
        ),
    )


def digest_of(examples: Examples, count: int) -> str:
    """The content address of the first `count` examples. They are read once, in place."""
    found = hashlib.blake2b(digest_size=32)
    for name, array in sorted(examples.arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape[1:]}\n".encode())
        found.update(np.ascontiguousarray(array[:count]).data)
    return found.hexdigest()


def write(path: Path, standing: Standing, state: Mapping[str, Array]) -> None:
    """Keep a training, durably. Raises `OSError`; what was kept before is then as it was."""
    sealed.write(path, _KIND, msgspec.json.encode(standing).decode(), state)


def read(path: Path, origin: Origin, manifest: Manifest, training: Examples) -> Kept | None:
    """What was kept for `origin` and these examples; `None` when there is no file. Raises
    `Unusable`."""
    schema = _schema(manifest)
    kept = sealed.read(
        path, _KIND, tensors.size_limit(schema, sealed.HEADER_LIMIT), lambda _: schema
    )
    if kept is None:
        return None
    text, state = kept
    try:
        standing = decode_json(text.encode(), Standing, sealed.HEADER_LIMIT)
    except WireError as error:
        raise Unusable(str(error)) from None
    for field in Origin.__struct_fields__:
        found, wanted = getattr(standing.origin, field), getattr(origin, field)
        if found != wanted:
            raise Unusable(f"it belongs to {field} {found}, not {wanted}")
    return Kept(standing, state, _examples_of(standing, training))


def drop(path: Path) -> None:
    """Forget a training. What cannot be removed does no harm: it is never gone on with."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _examples_of(standing: Standing, training: Examples) -> Examples:
    """The examples that a kept training was made over. Raises `Unusable` when they have changed.

    Those that came since are left out, as they would be had it never stopped. So a store to which
    programs append all the time hinders no training, while a row that is deleted ends the one that
    saw it.
    """
    count = standing.examples
    if len(training) < count:
        raise Unusable(f"it was made over {count} examples, there are {len(training)}")
    if digest_of(training, count) != standing.data:
        raise Unusable("its examples have changed")
    return Examples({name: array[:count] for name, array in training.arrays.items()})


def _schema(manifest: Manifest) -> dict[str, tensors.Spec]:
    both: Iterable[Any] = (*manifest.parameters, *manifest.state)
    return {t.name: tensors.Spec(FLOAT32, t.shape) for t in both}
