"""A database of the version before, and what an opened one must then hold."""

from pathlib import Path

import msgspec

from coordinator.store import evaluations
from coordinator.store.records import EvaluationRecord
from coordinator.store.sql import Store, Value
from fleet.clients import FACTS

SCHEMA = Path(__file__).with_name("schema-2.sql")
"""`coordinator/store/schema.sql` as version 2 had it."""

_DEVICE = "INSERT INTO devices VALUES ($1, 'pi', 'hash', '{}', $2, 1.0, 1.0)"  # its facts are JSON
_WORD = "INSERT INTO evaluations VALUES ('digits', 4, 'loss', $1, $2, $3)"
_FACTS = msgspec.json.encode(FACTS).decode()

FILL: list[tuple[str, tuple[Value, ...]]] = [
    ("INSERT INTO meta VALUES ('schema_version', '2')", ()),
    (_DEVICE, ("device-0", _FACTS)),
    (_DEVICE, ("device-1", _FACTS)),
    (_WORD, ("device-0", 1.0, 10)),
    (_WORD, ("device-1", 2.0, 30)),
]
"""Statements of what is in it, and their values."""


async def holds_what_was_said(store: Store) -> None:
    """What devices said is there, and they may go on."""
    (found,) = await store.survey(evaluations.look, "digits", 4)
    assert (found.mean, found.devices, found.examples, found.tried) == (1.75, 2, 40, 0)
    own = EvaluationRecord(
        task="digits",
        version=5,
        device="device-0",
        examples=10,
        metrics={"loss": 1.0},
        personal={"loss": 0.5},
    )
    await store.run(evaluations.add, [own])
    (found,) = await store.survey(evaluations.look, "digits", 5)
    assert (found.tried, found.falling, found.median_change) == (1, 1, -0.5)
    await store.run(evaluations.keep, [found])
    assert await store.read(evaluations.kept, "digits", 0) == [found]
