"""What a device carries from one round of a task to its next: slots of the plan's state that begin
with what another slot ended with (`wire.plan.Slot.carried`). It never leaves the device.

It is for the same plan alone. What does not fit, or is damaged, is dropped, and the device begins
as one that never took part. See `edge_agent.carried_files` for when it becomes true.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from edge_agent import sealed
from edge_agent.carried_files import CarriedFiles
from edge_agent.sealed import Unusable
from wire import tensors
from wire.checkpoint import FLOAT32
from wire.messages import Assignment, Identifier
from wire.plan import Manifest
from wire.strict import decode_json
from wire.tensors import Array, Schema, Spec

_KIND = "carried"


class _Standing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose it is: what the training for `assignment` left."""

    format: Literal[1] = 1
    task: Identifier
    plan: str
    assignment: Identifier


class Carried:
    """What one training takes over, and what it leaves. `folder` is where that is kept; without
    one each training begins as the first."""

    def __init__(
        self, work: Assignment, manifest: Manifest, outbox: Path, folder: str | None
    ) -> None:
        self._work = work
        self._manifest = manifest
        self._outbox = outbox
        self._files = CarriedFiles(Path(folder)) if folder and manifest.carries else None
        self.lost = ""
        """Why what was carried could not be used, if it could not."""

    def begin(self) -> dict[str, Array]:
        """The slots that do not begin with their fill. Raises `OSError` when what cannot be used
        cannot be removed."""
        if self._files is None:
            return {}
        schema = _schema(self._manifest)
        limit = tensors.size_limit(schema, sealed.HEADER_LIMIT)
        path = self._files.carried(self._work.task)
        try:
            found = sealed.read(path, _KIND, limit, self._schema_of)
        except Unusable as error:
            self.lost = str(error)
            self._files.forget(self._work.task)
            return {}
        return dict(found[1]) if found else {}

    def end(self, state: Mapping[str, Array]) -> None:
        """Keep what this training leaves, durably, before its update is written. Raises
        `OSError`."""
        if self._files is None:
            return
        work = self._work
        self._files.make_room(work.task, self._outbox)
        standing = _Standing(task=work.task, plan=work.plan, assignment=work.id)
        kept = {slot: state[source] for slot, source in self._manifest.carries.items()}
        text = msgspec.json.encode(standing).decode()
        sealed.write(self._files.carrying(work.task, work.id), _KIND, text, kept)

    def _schema_of(self, text: str) -> Schema:
        """Before the tensors cost anything."""
        standing = decode_json(text.encode(), _Standing, sealed.HEADER_LIMIT)
        if (standing.task, standing.plan) != (self._work.task, self._work.plan):
            raise Unusable("it is of another plan")
        return _schema(self._manifest)


def _schema(manifest: Manifest) -> dict[str, Spec]:
    carries = manifest.carries
    return {s.name: Spec(FLOAT32, s.shape) for s in manifest.state if s.name in carries}
