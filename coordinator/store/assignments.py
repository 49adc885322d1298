"""Transactions of assignments: given to devices, and what comes of each. The pure round decides.

Each locks the round's row first and assignments after it: see `coordinator.store.rounds`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from coordinator.errors import unknown_device
from coordinator.round import Arrival, Held, Round
from coordinator.store.records import AssignmentRecord, StandingRecord
from coordinator.store.rounds import ROUNDS, Terms, load, save
from coordinator.store.sql import Keep, Row, Steps, Tell, insert, one, over, records, rows
from coordinator.store.sums import tag
from wire.messages import WaitReason

_MEMORY = 0.7  # how much of a device's average time stays when a new one comes


class Arrived(NamedTuple):
    """An update that is complete, checked and waits to count."""

    assignment: str
    data: bytes
    digest: str
    examples: int
    steps: int
    loss: float


class Accepted(NamedTuple):
    """What became of a batch: for each update what it is to the round, and how stale; and the round
    after them."""

    arrivals: list[tuple[Arrival, int]]
    round: Round


def at_work(device: str) -> Steps[tuple[AssignmentRecord | None, list[StandingRecord]]]:
    """What a device works on, if anything, and where it stands in each task."""
    held = yield from records(
        AssignmentRecord,
        "SELECT * FROM assignments WHERE device = $1 AND state = 'working'",
        device,
    )
    standings = yield from records(
        StandingRecord, "SELECT * FROM standings WHERE device = $1", device
    )
    return held[0] if held else None, standings


def assign(
    terms: Terms, assignment: str, device: str, seed: int, now: float
) -> Steps[tuple[AssignmentRecord, Round] | WaitReason]:
    """Give `device` a place in the open round, or say why not. Raises `Denied` when it has left."""
    found = yield from load(terms, lock=True)
    if not (yield from one("SELECT 1 FROM devices WHERE id = $1", device)):
        raise unknown_device()
    standing = yield from one(
        "SELECT round FROM standings WHERE device = $1 AND task = $2", device, terms.task
    )
    served = standing is not None and standing["round"] == found.number
    if refusal := found.refusal(served, now):
        return refusal
    row = AssignmentRecord(
        id=assignment,
        task=terms.task,
        round=found.number,
        version=found.version,
        device=device,
        seed=seed,
        assigned=now,
    )
    # One that asks twice at once, here or through another process, gets one place.
    if not (yield from insert("assignments", row, "ON CONFLICT DO NOTHING RETURNING id")):
        return WaitReason.ALREADY_SERVED
    yield from rows(
        "INSERT INTO standings (device, task, round, accepted, failed, streak)"
        " VALUES ($1, $2, $3, 0, 0, 0)"
        " ON CONFLICT (device, task) DO UPDATE SET round = excluded.round",
        *(device, terms.task, found.number),
    )
    after = found.assigned(now)
    yield from save(terms.task, after)
    if found.started is None:
        yield Tell(ROUNDS)
    return row, after


def assignment(identifier: str) -> Steps[AssignmentRecord | None]:
    """One assignment."""
    found = yield from records(
        AssignmentRecord, "SELECT * FROM assignments WHERE id = $1", identifier
    )
    return found[0] if found else None


def working_of(identifiers: Sequence[str]) -> Steps[set[str]]:
    """Which of these assignments are at work."""
    marks = ", ".join(f"${number}" for number in range(1, len(identifiers) + 1))
    text = f"SELECT id FROM assignments WHERE state = 'working' AND id IN ({marks})"
    found = yield from rows(text, *identifiers)
    return {row["id"] for row in found}


def assignments(task: str, number: int) -> Steps[list[AssignmentRecord]]:
    """Everyone who had a place in a round or whose update counts in it, in order of assignment."""
    return (
        yield from records(
            AssignmentRecord,
            "SELECT * FROM assignments WHERE task = $1 AND (round = $2 OR counted = $2)"
            " ORDER BY assigned, id",
            *(task, number),
        )
    )


def accept(terms: Terms, batch: Sequence[Arrived], node: str, now: float) -> Steps[Accepted]:
    """Let complete updates count. Those that do are durable with this, bytes and all; the others
    are left as they were."""
    found = yield from load(terms, lock=True)
    started = found.started
    arrivals: list[tuple[Arrival, int]] = []
    counted: dict[str, _Counted] = {}
    there = yield from _states([update.assignment for update in batch])
    for update in batch:
        row = there.get(update.assignment)
        if row is None:  # its device has left
            arrivals.append((Arrival.LATE, 0))
            continue
        again = update.assignment in counted
        held = Held("accepted" if again else row["state"], row["round"], row["version"])
        arrival = found.arrival(held, now)
        arrivals.append((arrival, found.staleness(held)))
        if arrival is Arrival.COUNTS:
            found = found.counted(held, now)
            counted[update.assignment] = _Counted(update, row)
    if counted:
        yield from _count(terms.task, found.number, list(counted.values()), node, now)
        examples = sum(update.examples for update, _ in counted.values())
        yield from save(terms.task, found)
        yield from rows(
            "UPDATE rounds SET examples = examples + $3 WHERE task = $1 AND number = $2",
            *(terms.task, found.number, examples),
        )
        if started is None:
            yield Tell(ROUNDS)
    return Accepted(arrivals, found)


_STATE = "SELECT id, device, state, round, version, assigned FROM assignments WHERE id"


def _states(assignments: Sequence[str]) -> Steps[dict[str, Row]]:
    """Assignments as they are, locked: one statement, whatever their number."""
    marks = ", ".join(f"${number}" for number in range(1, len(assignments) + 1))
    found = yield from rows(f"{_STATE} IN ({marks}) FOR UPDATE", *assignments)
    return {row["id"]: row for row in found}


class _Counted(NamedTuple):
    """An update that counts, and its assignment as it was."""

    update: Arrived
    row: Row


def _count(
    task: str, number: int, counted: Sequence[_Counted], node: str, now: float
) -> Steps[None]:
    """Keep the bytes and write down that they count: a statement for all, not for each."""
    for update, _ in counted:
        yield Keep(task, number, update.assignment, update.data)
    yield from over(
        [
            (
                *(u.assignment, tag(u.assignment), len(u.data), u.digest, u.examples, u.steps),
                u.loss if math.isfinite(u.loss) else 0.0,
            )
            for u, _ in counted
        ],
        "UPDATE assignments SET state = 'accepted', ended = $1, counted = $2, node = $3,"
        " tag = t.column2, length = t.column3, digest = t.column4, examples = t.column5,"
        " steps = t.column6, loss = t.column7 FROM {table} AS t WHERE id = t.column1",
        *(now, number, node),
    )
    yield from over(
        [(row["device"], u.examples, max(0.0, now - row["assigned"])) for u, row in counted],
        "UPDATE standings SET accepted = accepted + 1, streak = 0, examples = t.column2,"
        " seconds = coalesce(seconds * $2 + t.column3 * (1.0 - $2), t.column3)"
        " FROM {table} AS t WHERE device = t.column1 AND task = $1",
        *(task, _MEMORY),
    )


def drop(
    terms: Terms, assignment: str, state: str, reason: str, detail: str, now: float
) -> Steps[Round | None]:
    """A device at work has `given_up`, or its update was `refused` for good. Returns the round
    after that; `None` when it was not at work (any more)."""
    found = yield from load(terms, lock=True)
    row = yield from one(_STATE + " = $1 FOR UPDATE", assignment)
    if row is None or row["state"] != "working":
        return None
    yield from rows(
        "UPDATE assignments SET state = $2, reason = $3, detail = $4, ended = $5 WHERE id = $1",
        *(assignment, state, reason, detail, now),
    )
    yield from rows(
        "UPDATE standings SET failed = failed + 1, streak = streak + 1, failed_at = $3"
        " WHERE device = $1 AND task = $2",
        *(row["device"], terms.task, now),
    )
    if not found.over:  # one that closes, too: the places that are taken go on to the next
        found = found.left(Held(row["state"], row["round"], row["version"]))
        yield from save(terms.task, found)
    return found
