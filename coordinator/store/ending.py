"""Transactions that end a round, and what follows: who failed is noted, the next round opens.

Each locks the round's row first and assignments after it: see `coordinator.store.rounds`.
"""

from collections.abc import Container
from dataclasses import replace
from typing import NamedTuple

from coordinator.round import Ending, Late, Phase, Reason, Round
from coordinator.selection import EndedRound, over_selection
from coordinator.store import handing
from coordinator.store.records import ModelRecord
from coordinator.store.rounds import ROUNDS, Terms, load, open_round, rounds, save
from coordinator.store.sql import Discard, Steps, Tell, insert, one, rows
from coordinator.store.tasks import newest_model

ROUNDS_KEPT = 50
"""For so many rounds it is kept who did what in them."""

_REMEMBERED = 20  # rounds from which the drop-out rate is estimated


class Closing(NamedTuple):
    """A round as it was when it stopped counting, and the model that it starts from."""

    round: Round
    model: ModelRecord


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
    """Close a round whose closer is no more, or has handed it back."""
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


class Abandoned(NamedTuple):
    """A round that could not be closed, and why."""

    round: Round
    reason: str


def abandon(terms: Terms, now: float) -> Steps[Abandoned | None]:
    """Stop the task though its closing round could not be closed: no model is made of what counted
    in it. `None` when that is not so: it is closed by now, or nobody has failed to."""
    found = yield from load(terms, lock=True)
    trouble = yield from handing.trouble(terms.task, found.number)
    if found.phase is not Phase.CLOSING or trouble is None:
        return None
    assert found.ended is not None
    ended = found.ends(Ending(Phase.ABANDONED, Reason.STOPPED), found.ended)
    yield from _conclude(terms, ended, found.version, now)
    return Abandoned(ended, trouble.reason)


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
    yield from handing.forget(task)
    yield from _forget(task, ended.number - ROUNDS_KEPT)
    ended = ended.expired(gone, failed)
    yield from save(task, ended)
    yield Discard(task, ended.number)
    yield Tell(ROUNDS)
    if state != "running":
        yield from rows("UPDATE tasks SET state = $2 WHERE name = $1", task, state)
        return
    yield from open_round(task, ended.following(version, (yield from places(terms)), now))


def _forget(task: str, number: int) -> Steps[None]:
    """Who did what in long gone rounds. The rounds' own numbers stay."""
    yield from rows(
        "DELETE FROM assignments WHERE task = $1 AND round <= $2 AND state <> 'working'"
        " AND (counted IS NULL OR counted <= $2)",
        *(task, number),
    )


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
