"""Transactions of rounds and assignments: the pure round decides, these lock, ask and write down.

Each locks the round's row first and assignments after it, so that two never wait for each other.
"""

import math
import zlib
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import NamedTuple

from coordinator.errors import unknown_device
from coordinator.round import Arrival, Ending, Held, Late, Phase, Reason, Round, RoundPolicy
from coordinator.selection import EndedRound, over_selection
from coordinator.store.records import AssignmentRecord, ModelRecord, RoundRecord, StandingRecord
from coordinator.store.sql import (
    Discard,
    Keep,
    Row,
    Steps,
    Tell,
    insert,
    one,
    recall,
    record,
    records,
    rows,
)
from wire.messages import WaitReason

ROUNDS = "rounds"
"""What is told when a round opens, starts or closes."""

ROUNDS_KEPT = 50
"""For so many rounds it is kept who did what in them."""

_REMEMBERED = 20  # rounds from which the drop-out rate is estimated
_MEMORY = 0.7  # how much of a device's average time stays when a new one comes


class Terms(NamedTuple):
    """What of a task file the rounds need."""

    task: str
    policy: RoundPolicy
    over_selection: float
    over_selection_limit: float
    rounds: int  # after which the task is done; 0 runs until stopped


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


# The round


_NEWEST = "SELECT * FROM rounds WHERE task = $1 ORDER BY number DESC LIMIT 1"


def load(terms: Terms, lock: bool = False) -> Steps[Round]:
    """The newest round of a task."""
    found, before = (yield from _newest(terms, lock)), None
    # Whoever held the lock may have ended the round and opened another, which the statement that
    # waited for it has not seen.
    while lock and found.over and found.number != before:
        before, found = found.number, (yield from _newest(terms, lock))
    return found


def _newest(terms: Terms, lock: bool) -> Steps[Round]:
    row = yield from one(_NEWEST + " FOR UPDATE" * lock, terms.task)
    assert row is not None, f"task {terms.task} has no round"
    return _round(record(RoundRecord, row), terms.policy)


def _round(row: RoundRecord, policy: RoundPolicy) -> Round:
    ending = None
    if row.phase != "open":
        phase = Phase.ABANDONED if row.phase == "abandoned" else Phase.CLOSED
        ending = Ending(phase, Reason(str(row.reason)))
    return Round(
        number=row.number,
        version=row.version,
        policy=policy,
        places=row.places,
        opened=row.opened,
        working=row.working,
        arrived=row.arrived,
        dropped=row.dropped,
        started=row.started,
        ended=row.ended,
        ending=ending,
        published=row.phase == "closed",
    )


def save(task: str, found: Round, closer: str | None = None) -> Steps[None]:
    """Write a round down."""
    phase, reason = "open", None
    if found.ending is not None:
        phase, reason = str(found.phase), str(found.ending.reason)
    yield from rows(
        "UPDATE rounds SET phase = $3, reason = $4, working = $5, arrived = $6, dropped = $7,"
        " started = $8, ended = $9, closer = coalesce($10, closer)"
        " WHERE task = $1 AND number = $2",
        *(task, found.number, phase, reason, found.working, found.arrived, found.dropped),
        *(found.started, found.ended, closer),
    )


def open_round(task: str, new: Round) -> Steps[None]:
    """The next round begins to wait for devices."""
    yield from insert(
        "rounds",
        RoundRecord(
            task=task,
            number=new.number,
            version=new.version,
            phase="open",
            reason=None,
            places=new.places,
            working=new.working,
            arrived=0,
            opened=new.opened,
            started=new.started,
            ended=None,
            closer=None,
            examples=0,
            dropped=0,
        ),
    )
    yield Tell(ROUNDS)


def rounds(task: str, last: int) -> Steps[list[RoundRecord]]:
    """The `last` rounds of a task, oldest first."""
    newest = "SELECT * FROM rounds WHERE task = $1 ORDER BY number DESC LIMIT $2"
    return (yield from records(RoundRecord, newest, task, last))[::-1]


def round_record(task: str, number: int) -> Steps[RoundRecord | None]:
    """One round."""
    text = "SELECT * FROM rounds WHERE task = $1 AND number = $2"
    found = yield from records(RoundRecord, text, task, number)
    return found[0] if found else None


# A device's part


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
    counted: set[str] = set()
    examples = 0
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
            yield from _count(terms.task, found.number, update, row, node, now)
            found = found.counted(held, now)
            counted.add(update.assignment)
            examples += update.examples
    if examples:
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


def _count(task: str, number: int, update: Arrived, row: Row, node: str, now: float) -> Steps[None]:
    yield Keep(task, number, update.assignment, update.data)
    loss = update.loss if math.isfinite(update.loss) else 0.0
    yield from rows(
        "UPDATE assignments SET state = 'accepted', ended = $2, counted = $3, node = $4, tag = $5,"
        " length = $6, digest = $7, examples = $8, steps = $9, loss = $10 WHERE id = $1",
        *(update.assignment, now, number, node, tag(update.assignment)),
        *(len(update.data), update.digest, update.examples, update.steps, loss),
    )
    yield from rows(
        "UPDATE standings SET accepted = accepted + 1, streak = 0, examples = $3,"
        " seconds = coalesce(seconds * $4 + $5 * (1.0 - $4), $5) WHERE device = $1 AND task = $2",
        *(row["device"], task, update.examples, _MEMORY, max(0.0, now - row["assigned"])),
    )


def tag(assignment: str) -> int:
    """31 bits of an id's hash. The sum of the tags of a set of assignments tells whether it is the
    one that was meant; so many fit into 64 bits."""
    return zlib.crc32(assignment.encode()) >> 1


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


# The end


class Closing(NamedTuple):
    """A round as it was when it stopped counting, and the model that it starts from."""

    round: Round
    model: ModelRecord


def newest_model(task: str) -> Steps[ModelRecord]:
    """The newest model of a task."""
    found = yield from records(
        ModelRecord, "SELECT * FROM models WHERE task = $1 ORDER BY version DESC LIMIT 1", task
    )
    return found[0]


def model(task: str, version: int) -> Steps[ModelRecord | None]:
    """A published model."""
    text = "SELECT * FROM models WHERE task = $1 AND version = $2"
    found = yield from records(ModelRecord, text, task, version)
    return found[0] if found else None


def begin_close(
    terms: Terms, node: str, now: float, stopped: bool = False
) -> Steps[Closing | Round | None]:
    """End the open round if that is due, or since the task is `stopped`. From here on nothing
    counts. `None` when it is not due; the ended round when it was abandoned; else the caller is its
    closer, and no other process is."""
    found = yield from load(terms, lock=True)
    ending = found.due(now)
    if stopped and found.ending is None:
        ending = Ending(Phase.ABANDONED, Reason.STOPPED)
    if ending is None:
        return None
    ended = found.ends(ending, now)
    yield from save(terms.task, ended, node)
    if ending.phase is Phase.ABANDONED:
        yield from _conclude(terms, ended, found.version, now)
        return ended
    yield Tell(ROUNDS)
    return Closing(ended, (yield from newest_model(terms.task)))


def take_over(terms: Terms, node: str, alive: Container[str]) -> Steps[Closing | None]:
    """Close a round whose closer is no more."""
    row = yield from one(
        "SELECT number, closer FROM rounds WHERE task = $1 AND phase = 'closing' FOR UPDATE",
        terms.task,
    )
    if row is None or row["closer"] in alive:
        return None
    yield from rows(
        "UPDATE rounds SET closer = $3 WHERE task = $1 AND number = $2",
        *(terms.task, row["number"], node),
    )
    found = yield from load(terms)
    return Closing(found, (yield from newest_model(terms.task)))


def finish_close(
    terms: Terms,
    node: str,
    closing: Round,
    made: ModelRecord | Reason,
    examples: int,
    lost: dict[str, str],
    now: float,
) -> Steps[Round | None]:
    """The closer has made the model, durable already, or says why there is none. One transaction
    ends the round, publishes the model and opens the next. `lost` are the updates that the disk no
    longer has, and why; `examples` those that weigh in the model. `None` when another closer has
    taken over meanwhile."""
    row = yield from one(
        "SELECT phase, closer FROM rounds WHERE task = $1 AND number = $2 FOR UPDATE",
        *(terms.task, closing.number),
    )
    if row is None or (row["phase"], row["closer"]) != ("closing", node):
        return None
    found = (yield from load(terms)).lost(len(lost))
    for identifier, why in lost.items():
        yield from rows(
            "UPDATE assignments SET state = 'refused', reason = 'lost', detail = $2,"
            " counted = NULL WHERE id = $1",
            *(identifier, why),
        )
    version = found.version
    yield from rows(
        "UPDATE rounds SET examples = $3 WHERE task = $1 AND number = $2",
        *(terms.task, closing.number, examples),
    )
    if isinstance(made, Reason):
        assert found.ended is not None
        found = found.ends(Ending(Phase.ABANDONED, made), found.ended)
    else:
        found = replace(found, published=True)
        yield from insert("models", made)
        version = made.version
    yield from _conclude(terms, found, version, now)
    return found


def _conclude(terms: Terms, ended: Round, version: int, now: float) -> Steps[None]:
    """After a round: who failed is noted, the task goes on or is done, what was kept goes."""
    task = terms.task
    state = _state_after(terms, ended, version)
    gone, failed = yield from _expire(terms, ended, version, state != "running", now)
    yield from rows("DELETE FROM partials WHERE task = $1 AND round <= $2", task, ended.number)
    yield from _forget(task, ended.number - ROUNDS_KEPT, version - ROUNDS_KEPT)
    ended = ended.expired(gone, failed)
    yield from save(task, ended)
    yield Discard(task, ended.number)
    yield Tell(ROUNDS)
    if state != "running":
        yield from rows("UPDATE tasks SET state = $2 WHERE name = $1", task, state)
        return
    yield from open_round(task, ended.following(version, (yield from places(terms)), now))


def _forget(task: str, number: int, version: int) -> Steps[None]:
    """Who did what in long gone rounds, and how each device found long gone models. The rounds'
    own numbers stay."""
    yield from rows(
        "DELETE FROM assignments WHERE task = $1 AND round <= $2 AND state <> 'working'"
        " AND (counted IS NULL OR counted <= $2)",
        *(task, number),
    )
    yield from rows("DELETE FROM evaluations WHERE task = $1 AND version <= $2", task, version)


def _state_after(terms: Terms, ended: Round, version: int) -> str:
    """The task's state once a round has ended, from which the model `version` came."""
    assert ended.ending is not None
    if ended.ending.reason is Reason.STOPPED:
        return "stopped"
    return "done" if 0 < terms.rounds <= version else "running"


def _expire(
    terms: Terms, ended: Round, version: int, last: bool, now: float
) -> Steps[tuple[int, int]]:
    """Those whose update cannot count any more; all, after the `last` round. Returns how many they
    are, and how many of them came to nothing, though they had as much time as the slowest that
    counts: of the others nothing is known."""
    policy = terms.policy
    before = yield from _long_enough(terms, ended)
    assert ended.ended is not None
    oldest, since = version - policy.max_staleness, ended.ended - policy.longest
    if last or policy.late is Late.REFUSE:
        oldest = version + 1
    over = "state = 'working' AND task = $1 AND (version < $2 OR assigned <= $3)"
    at = (terms.task, oldest, since)
    yield from rows(
        "UPDATE standings SET failed = failed + 1, streak = streak + 1, failed_at = $5"
        " WHERE task = $1 AND device IN"
        f" (SELECT device FROM assignments WHERE {over} AND assigned <= $4)",
        *(*at, before, now),
    )
    found = yield from one(
        "SELECT count(*) AS gone, coalesce(sum(CASE WHEN assigned <= $4 THEN 1 ELSE 0 END), 0)"
        f" AS failed FROM assignments WHERE {over}",
        *(*at, before),
    )
    yield from rows(
        f"UPDATE assignments SET state = 'expired', ended = $4 WHERE {over}",
        *(*at, ended.ended),
    )
    return (int(found["gone"]), int(found["failed"])) if found else (0, 0)


def _long_enough(terms: Terms, ended: Round) -> Steps[float]:
    """Who was assigned before that had as much time as the slowest that counts."""
    row = yield from one(
        "SELECT max(ended - assigned) AS slowest, max(ended) AS last FROM assignments"
        " WHERE task = $1 AND counted = $2",
        *(terms.task, ended.number),
    )
    assert ended.ended is not None
    # A coordinator that was busy, or away, gave nobody more time.
    over = min(ended.ended, ended.deadline or ended.ended)
    if row is None or row["slowest"] is None:
        return over - terms.policy.deadline
    goal = ended.ending is not None and ended.ending.reason is Reason.GOAL
    return float((row["last"] if goal else over) - row["slowest"])


def places(terms: Terms) -> Steps[int]:
    """How many devices the next round asks, from how many came to nothing in the last ones."""
    found = yield from rounds(terms.task, _REMEMBERED)
    # Of one that may still count, a later round tells what became of it.
    refuse = terms.policy.late is Late.REFUSE
    ended = [
        EndedRound(r.arrived + r.dropped + (r.working if refuse else 0), r.arrived, r.dropped)
        for r in found
        if r.phase in ("closed", "abandoned") and r.reason != Reason.STOPPED
    ]
    limit = max(terms.over_selection, terms.over_selection_limit)
    return terms.policy.places(over_selection(terms.over_selection, limit, ended))


# Sums


class Part(NamedTuple):
    """Which updates of a closing round a node has summed: how many, and the sum of their tags."""

    node: str | None
    updates: int
    tags: int


def parts(task: str, number: int) -> Steps[list[Part]]:
    """Who has summed what of a round."""
    found = yield from rows(
        "SELECT node, count(*) AS updates, sum(tag) AS tags FROM assignments"
        " WHERE task = $1 AND counted = $2 GROUP BY node ORDER BY node",
        *(task, number),
    )
    return [Part(row["node"], int(row["updates"]), int(row["tags"])) for row in found]


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


class Handed(NamedTuple):
    """What a closer finds of a node's sum. `ours`: it is still the closer; `there`: the node has
    handed over what it has, and no more will come; `data` if that is of the updates that were
    meant."""

    ours: bool
    there: bool
    data: bytes | None


def partial(task: str, number: int, closer: str, part: Part) -> Steps[Handed]:
    """A node's sum, for the closer of the round."""
    round_ = yield from one(
        "SELECT phase, closer FROM rounds WHERE task = $1 AND number = $2", task, number
    )
    ours = round_ is not None and (round_["phase"], round_["closer"]) == ("closing", closer)
    row = yield from one(
        "SELECT tags, data FROM partials WHERE task = $1 AND round = $2 AND node = $3",
        *(task, number, part.node),
    )
    meant = row is not None and row["tags"] == part.tags
    return Handed(ours, row is not None, bytes(row["data"]) if row is not None and meant else None)


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
