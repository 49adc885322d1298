"""An update that counts, read back from the store's bytes."""

from coordinator.aggregation import Contribution
from coordinator.round import Held, Round
from coordinator.store.records import AssignmentRecord
from coordinator.task import Task
from wire.errors import Rule, WireError
from wire.update import read


def contribution(
    task: Task, counted: Round, row: AssignmentRecord, data: bytes | None
) -> Contribution:
    """Blocking: what an update contributes to the round in which it counts. Raises `WireError` when
    its bytes are gone or damaged."""
    if data is None:
        raise WireError(Rule.TRUNCATED, "its bytes are gone from the store")
    update = read(data, task.manifest.parameters, task.file.upload.codec)
    staleness = counted.staleness(Held(row.state, row.round, row.version))
    return Contribution(update.delta, update.header.examples, update.header.steps, staleness)
