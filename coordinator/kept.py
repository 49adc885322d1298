"""An update that counts, as the store has kept it."""

from coordinator.bench import Kept
from coordinator.round import Held, Round
from coordinator.store.records import AssignmentRecord


def kept_of(counted: Round, row: AssignmentRecord, data: bytes | None) -> Kept:
    """For the bench: the bytes, or `None` when they are gone, and how stale it is to the round in
    which it counts."""
    return Kept(row.id, data, counted.staleness(Held(row.state, row.round, row.version)))
