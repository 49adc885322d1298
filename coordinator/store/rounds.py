"""Transactions of a task's rounds: read, written down, opened. The pure round decides.

Whoever changes a round or an assignment locks the round's row first and assignments after it, so
that two never wait for each other.
"""

from typing import NamedTuple

from coordinator.round import Ending, Phase, Reason, Round, RoundPolicy
from coordinator.store.records import RoundRecord
from coordinator.store.sql import Steps, Tell, insert, one, record, records, rows

ROUNDS = "rounds"
"""What is told when a round opens, starts or closes."""


class Terms(NamedTuple):
    """What of a task file the rounds need."""

    task: str
    policy: RoundPolicy
    over_selection: float
    over_selection_limit: float
    rounds: int  # after which the task is done; 0 runs until stopped


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
