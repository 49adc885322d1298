"""Transactions that find what nobody needs any more: models of long ago, processes that are dead.

A model is needed while it is one of the last of its task, or some device trains from it. Its bytes
go first and its row after them, so that a crash in between leaves nothing behind.
"""

from collections.abc import Collection

from coordinator.store.records import ModelRecord
from coordinator.store.sql import Steps, records, rows

_AT_ONCE = 100


def models(task: str, keep: int) -> Steps[list[ModelRecord]]:
    """Some of the models of a task, oldest first, that are neither among its last `keep` nor
    trained from by a device at work."""
    found = yield from records(
        ModelRecord,
        "SELECT * FROM models WHERE task = $1"
        " AND version <= (SELECT max(version) FROM models WHERE task = $1) - $2"
        " ORDER BY version LIMIT $3",
        *(task, keep, _AT_ONCE),
    )
    if not found:
        return []
    used = yield from rows(
        "SELECT DISTINCT version FROM assignments WHERE task = $1 AND state = 'working'", task
    )
    versions = {int(row["version"]) for row in used}
    return [model for model in found if model.version not in versions]


def unneeded(models: Collection[ModelRecord]) -> Steps[set[str]]:
    """The digests of these models and their states that no other model has, of any task."""
    gone = {(model.task, model.version) for model in models}
    digests = {digest for m in models for digest in (m.digest, m.state) if digest is not None}
    needed: set[str] = set()
    for digest in digests:
        found = yield from rows(
            "SELECT task, version FROM models WHERE digest = $1 OR state = $1", digest
        )
        if any((row["task"], int(row["version"])) not in gone for row in found):
            needed.add(digest)
    return digests - needed


def forget(models: Collection[ModelRecord]) -> Steps[None]:
    """These models are no more."""
    for model in models:
        yield from rows(
            "DELETE FROM models WHERE task = $1 AND version = $2", model.task, model.version
        )


def bury(since: float) -> Steps[None]:
    """Processes that have not been heard of since that time: they do not come back."""
    yield from rows("DELETE FROM nodes WHERE seen < $1", since)
