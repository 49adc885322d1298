"""Rows that the database has lost, made anew from the bytes that they spoke of.

SQLite takes a log that is cut short, or has a flipped bit, for that of an ordinary crash: it goes
on without the transactions behind that place, though they were answered. The bytes of the updates
in them are on the disk, each with its assignment in it, and they were kept because they counted. So
they count again, as the process that is gone had it. Those that were never answered count as well:
their devices send them once more, and hear so.
"""

import logging
import sqlite3
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from coordinator.store.assignments import Arrived, accept
from coordinator.store.playing import answer_query, play
from coordinator.store.rounds import Terms
from coordinator.store.segments import Owner, Place, Segments, owner
from coordinator.store.sql import Keep, Query, Step
from coordinator.task import terms_of
from coordinator.taskfile import TaskFileError, parse
from wire.digest import digest_of
from wire.errors import WireError
from wire.update import header_of

log = logging.getLogger(__name__)

_AT_ONCE = 64  # updates of a transaction


_PLACE = "INSERT INTO payloads VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"


class TooOld(Exception):
    """The database knows nothing of a round, or of an assignment, that a segment is of."""

    def __init__(self, segment: str) -> None:
        task, number, _ = owner(segment)
        super().__init__(f"task {task}, round {number}")
        self.segment = segment


def redo(database: sqlite3.Connection, segments: Segments, name: str) -> bool:
    """Write down what is lost of a segment; returns whether it is needed any more. Before any
    process works over the database. Blocking. Raises `TooOld`, `OSError`."""
    kept = owner(name)
    known = _known(database, kept)
    newest = database.execute(
        "SELECT number, phase FROM rounds WHERE task = ?1 ORDER BY number DESC LIMIT 1",
        (kept.task,),
    ).fetchone()
    reached, phase = newest or (-1, None)
    # A crash leaves at most a segment of the round that was about to open.
    if kept.round > reached + 1 and not known:
        raise TooOld(name)
    if kept.round < reached or (kept.round == reached and phase != "open"):
        return bool(known)  # before a round closes, all that counts in it is written down
    strays = _strays(database, segments, name, known)
    terms = _terms(database, kept.task)
    if kept.round > reached or terms is None:
        return bool(known) or any(strays)  # they may count once that is otherwise
    return _redo(database, kept, terms, strays) or bool(known)


def _redo(
    database: sqlite3.Connection, kept: Owner, terms: Terms, strays: Iterator["_Stray"]
) -> bool:
    # As late as is known for certain: before the deadline, if they counted before it.
    (now,) = database.execute("SELECT clock FROM driver").fetchone()
    redone = 0
    while batch := list(islice(strays, _AT_ONCE)):
        places = {stray.update.assignment: stray.place for stray in batch}

        def answer(step: Step, places: dict[str, Place] = places) -> Any:
            if isinstance(step, Query):
                return answer_query(database, step)
            if isinstance(step, Keep):
                place = (step.assignment, *kept, *places[step.assignment])
                database.execute(_PLACE, place)
            return None

        updates = [stray.update for stray in batch]
        database.execute("BEGIN IMMEDIATE")
        play(accept(terms, updates, kept.node, now), answer)
        database.execute("COMMIT")
        redone += len(batch)
    if redone:
        log.warning(
            "task %s: round %d: %d updates were on the disk and not in the database: they count",
            *(kept.task, kept.round, redone),
        )
    return redone > 0


class _Stray(NamedTuple):
    place: Place
    update: Arrived


def _known(database: sqlite3.Connection, kept: Owner) -> set[int]:
    """Where those updates of a segment start of which the database has a row."""
    rows = database.execute(
        "SELECT start FROM payloads WHERE task = ?1 AND round = ?2 AND node = ?3", kept
    )
    return {row["start"] for row in rows}


def _strays(
    database: sqlite3.Connection, segments: Segments, name: str, known: set[int]
) -> Iterator[_Stray]:
    """The others that are to be written down, in the order in which they came."""
    for place, data in segments.strays(name, known):
        try:
            header = header_of(data)
        except WireError:
            raise TooOld(name) from None
        state = database.execute(
            "SELECT state FROM assignments WHERE id = ?1", (header.assignment,)
        ).fetchone()
        if state is None:
            raise TooOld(name)
        if state["state"] == "working":
            told = (header.assignment, data, digest_of(data))
            yield _Stray(place, Arrived(*told, header.examples, header.steps, header.loss))


def _terms(database: sqlite3.Connection, task: str) -> Terms | None:
    """`None` where the task's file cannot be read (any more): whoever brings it back says why."""
    row = database.execute("SELECT definition FROM tasks WHERE name = ?1", (task,)).fetchone()
    try:
        return None if row is None else terms_of(parse(row["definition"], f"task {task}"))
    except TaskFileError:
        return None
