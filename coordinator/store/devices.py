"""Transactions of devices and enrolment tokens."""

from collections.abc import Mapping

import msgspec

from coordinator.errors import Unavailable
from coordinator.round import Held, Phase, Round
from coordinator.store import rounds
from coordinator.store.records import AssignmentRecord, DeviceRecord, Withdrawn
from coordinator.store.rounds import Terms
from coordinator.store.sql import Discard, Steps, Tell, insert, one, recall, records, rows
from schedules.pacing import Hours
from wire.messages import Facts

DEVICES = "devices"
"""What is told when a device has left."""


def add_token(token: str, secret: str, uses: int, expires: float) -> Steps[None]:
    """An enrolment token, good for so many devices until `expires`."""
    yield from rows("INSERT INTO tokens VALUES ($1, $2, $3, $4)", token, secret, uses, expires)


def token_secret(token: str, now: float) -> Steps[str | None]:
    """The hashed secret of a token that is still good."""
    row = yield from one(
        "SELECT secret FROM tokens WHERE id = $1 AND uses > 0 AND expires > $2", token, now
    )
    return row["secret"] if row else None


def enroll(device: DeviceRecord, token: str) -> Steps[bool]:
    """Add a device and use the token once. False when the token has no use left."""
    used = yield from rows(
        "UPDATE tokens SET uses = uses - 1 WHERE id = $1 AND uses > 0 AND expires > $2"
        " RETURNING id",
        *(token, device.enrolled),
    )
    if not used:
        return False
    yield from insert("devices", device)
    return True


def device(identifier: str) -> Steps[DeviceRecord | None]:
    """One device."""
    found = yield from records(DeviceRecord, "SELECT * FROM devices WHERE id = $1", identifier)
    return found[0] if found else None


def devices(after: str, limit: int) -> Steps[list[DeviceRecord]]:
    """Up to `limit` devices by id, from the one after `after` on."""
    text = "SELECT * FROM devices WHERE id > $1 ORDER BY id LIMIT $2"
    return (yield from records(DeviceRecord, text, after, limit))


def population() -> Steps[int]:
    """How many devices there are."""
    row = yield from one("SELECT count(*) AS found FROM devices")
    return int(row["found"]) if row else 0


def saw(seen: Mapping[str, tuple[Facts, float]]) -> Steps[None]:
    """When devices last checked in, and what they said of themselves."""
    for identifier, (facts, now) in sorted(seen.items()):
        yield from rows(
            "UPDATE devices SET facts = $2, seen = $3 WHERE id = $1",
            *(identifier, msgspec.json.encode(facts).decode(), now),
        )


def learn(now: float) -> Steps[Hours]:
    """How many devices check in at which hour, as far as is known; the hour before `now`, too."""
    key = "hours"
    row = yield from one("SELECT value FROM meta WHERE key = $1", key)
    known = Hours.load(msgspec.json.decode(row["value"], type=list[float]) if row else [])
    if not known.due(now):
        return known
    seen = yield from one("SELECT count(*) AS found FROM devices WHERE seen > $1", now - 3600)
    learned = known.learn(now, int(seen["found"]) if seen else 0)
    yield from rows(
        "INSERT INTO meta (key, value) VALUES ($1, $2)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        *(key, msgspec.json.encode(learned.dump()).decode()),
    )
    return learned


def withdraw(identifier: str, tasks: Mapping[str, Terms]) -> Steps[Withdrawn | None]:
    """Forget a device: its identity, its evaluations and its part in every round, also in those
    that have ended; what they came to stays in the rounds' own numbers. `None` when there is no
    such device (any more). Raises `Unavailable` while a model is being made with its update: soon
    that is published, or not."""
    if not (yield from one("SELECT id FROM devices WHERE id = $1", identifier)):
        return None
    # All rounds are locked before its part in any is read: none can change any more, no place be
    # given to it. In the order of names, so that two who leave never wait for each other.
    newest_of: dict[str, Round] = {}
    for name in sorted(tasks):
        newest_of[name] = yield from rounds.load(tasks[name], lock=True)
    if not (yield from one("SELECT id FROM devices WHERE id = $1 FOR UPDATE", identifier)):
        return None
    found = yield from records(
        AssignmentRecord,
        "SELECT * FROM assignments WHERE device = $1 ORDER BY task, id",
        identifier,
    )
    dropped = published = 0
    kept: list[tuple[AssignmentRecord, bytes | None]] = []
    for name in sorted({row.task for row in found}):
        newest = newest_of.get(name)
        if newest is None:  # new, or left out since it cannot be brought back
            if (yield from one("SELECT 1 FROM tasks WHERE name = $1 AND state = 'running'", name)):
                raise Unavailable("new_task", f"task {name} is not served here yet: try again")
            for row in (row for row in found if row.task == name and row.state == "accepted"):
                published += yield from _published(name, row.counted)
            continue
        for row in (row for row in found if row.task == name):
            here = row.state == "accepted" and row.counted == newest.number
            if here and newest.phase is Phase.CLOSING:
                raise Unavailable("closing", "a model is being made with its update: try again")
            if here and not newest.over:
                dropped += 1
            elif row.state == "accepted":
                published += yield from _published(name, row.counted)
            if newest.over:
                continue
            if here:
                kept.append((row, (yield from recall(row.id))))
                yield Discard(name, newest.number, row.id)
                yield from rows(
                    "UPDATE rounds SET examples = examples - $3 WHERE task = $1 AND number = $2",
                    *(name, newest.number, row.examples),
                )
            newest = newest.forgotten(Held(row.state, row.round, row.version), here)
        yield from rounds.save(name, newest)
    for table in ("assignments", "standings", "evaluations"):
        yield from rows(f"DELETE FROM {table} WHERE device = $1", identifier)
    yield from rows("DELETE FROM devices WHERE id = $1", identifier)
    yield Tell(DEVICES)
    return Withdrawn(found, kept, dropped, published)


def _published(task: str, number: int | None) -> Steps[bool]:
    """Whether a model was made in a round."""
    row = yield from one("SELECT phase FROM rounds WHERE task = $1 AND number = $2", task, number)
    return row is not None and row["phase"] == "closed"
