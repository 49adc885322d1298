"""Transactions of who has summed what: each process its portion of a round's updates.

The portions meet at the close; see `coordinator.closing` and `coordinator.tally`.
"""

import zlib
from typing import NamedTuple

from coordinator.store.records import AssignmentRecord
from coordinator.store.rounds import ROUNDS
from coordinator.store.sql import Steps, Tell, one, recall, records, rows


class Portion(NamedTuple):
    """Which updates of a closing round a node has summed: how many, and the sum of their tags."""

    node: str | None
    updates: int
    tags: int


def portions(task: str, number: int) -> Steps[list[Portion]]:
    """Who has summed what of a round."""
    found = yield from rows(
        "SELECT node, count(*) AS updates, sum(tag) AS tags FROM assignments"
        " WHERE task = $1 AND counted = $2 GROUP BY node ORDER BY node",
        *(task, number),
    )
    return [Portion(row["node"], int(row["updates"]), int(row["tags"])) for row in found]


def summed_by(task: str, number: int, node: str | None) -> Steps[list[AssignmentRecord]]:
    """The updates that a node has summed, by id."""
    return (
        yield from records(
            AssignmentRecord,
            "SELECT * FROM assignments WHERE task = $1 AND counted = $2"
            " AND coalesce(node, '') = $3 ORDER BY id",
            *(task, number, node or ""),
        )
    )


def kept(identifier: str) -> Steps[bytes | None]:
    """The bytes of an update that counts; `None` when they are gone."""
    return (yield from recall(identifier))


def put_partial(task: str, number: int, node: str, tags: int, data: bytes) -> Steps[bool]:
    """A node's sum for the closer. False when the round is closed by now."""
    row = yield from one(
        "SELECT phase FROM rounds WHERE task = $1 AND number = $2 FOR UPDATE", task, number
    )
    if row is None or row["phase"] != "closing":
        return False
    yield from rows(
        "INSERT INTO partials (task, round, node, tags, data) VALUES ($1, $2, $3, $4, $5)"
        " ON CONFLICT (task, round, node) DO UPDATE SET tags = excluded.tags, data = excluded.data",
        *(task, number, node, tags, data),
    )
    yield Tell(ROUNDS)
    return True


def partial(task: str, number: int, portion: Portion) -> Steps[bytes | None]:
    """A node's sum, if it is here and of the updates that were meant."""
    row = yield from one(
        "SELECT tags, data FROM partials WHERE task = $1 AND round = $2 AND node = $3",
        *(task, number, portion.node),
    )
    return bytes(row["data"]) if row is not None and row["tags"] == portion.tags else None


def adopt(
    task: str, number: int, node: str, orphaned: str | None, limit: int
) -> Steps[list[AssignmentRecord]]:
    """Take over up to `limit` updates of an open round that a process which is no more has summed:
    the caller is to sum them. None of one that closes: its closer has seen already who has summed
    what, and would sum those that move twice, or not at all."""
    row = yield from one(
        "SELECT phase FROM rounds WHERE task = $1 AND number = $2 FOR UPDATE", task, number
    )
    if row is None or row["phase"] != "open":
        return []
    return (
        yield from records(
            AssignmentRecord,
            "UPDATE assignments SET node = $3 WHERE counted = $2 AND task = $1"
            " AND coalesce(node, '') = $4 AND id IN"
            " (SELECT id FROM assignments WHERE task = $1 AND counted = $2"
            " AND coalesce(node, '') = $4 ORDER BY id LIMIT $5) RETURNING *",
            *(task, number, node, orphaned or "", limit),
        )
    )


def tag(assignment: str) -> int:
    """31 bits of an id's hash. The sum of the tags of a set of assignments tells whether it is the
    one that was meant; so many fit into 64 bits."""
    return zlib.crc32(assignment.encode()) >> 1
