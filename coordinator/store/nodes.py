"""Transactions of the processes over the store, its nodes: which are there."""

from coordinator.store.sql import Steps, Tell, rows
from coordinator.store.tasks import TASKS


def alone(node: str) -> Steps[None]:
    """No other process is over this store: whoever was is no more."""
    yield from rows("DELETE FROM nodes WHERE id <> $1", node)


def alive(node: str, host: str, now: float, since: float) -> Steps[list[str]]:
    """This node is there; which have said so `since` that time."""
    yield from rows(
        "INSERT INTO nodes (id, host, seen) VALUES ($1, $2, $3)"
        " ON CONFLICT (id) DO UPDATE SET seen = excluded.seen",
        *(node, host, now),
    )
    found = yield from rows("SELECT id FROM nodes WHERE seen >= $1", since)
    return [row["id"] for row in found]


def farewell(node: str) -> Steps[None]:
    """This node ends: what it has summed is others' to sum."""
    yield from rows("DELETE FROM nodes WHERE id = $1", node)
    yield Tell(TASKS)
