"""What is asked of the store to see what happened: rounds, who was in them, who rests. Nothing here
decides anything, and every answer has a bound.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from coordinator.selection.standing import FORGIVEN
from coordinator.store.records import DeviceRecord, StandingRecord
from coordinator.store.sql import Steps, one, records, rows


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One device's part in a round: its assignment, and what is known of the device. Times are in
    seconds since the epoch. `late`: when its update came though it could count no more; `counted`:
    the round in which it counts; `seen`: the device's last check-in."""

    id: str
    device: str
    name: str
    round: int
    version: int
    state: str
    reason: str | None
    detail: str | None
    assigned: float
    ended: float | None
    late: float | None
    counted: int | None
    length: int | None
    examples: int | None
    steps: int | None
    loss: float | None
    seen: float
    streak: int
    failed: int
    failed_at: float | None


class Outcome(NamedTuple):
    """How many of a round's assignments came to the same."""

    state: str
    reason: str | None
    assignments: int


_IN_ROUND = "FROM assignments WHERE task = $1 AND (round = $2 OR counted = $2)"


def places(task: str, number: int, after: str, limit: int) -> Steps[list[Place]]:
    """Up to `limit` of those who had a place in a round, or whose update counts in it, in order of
    assignment, from the one after the assignment `after` on."""
    return (
        yield from records(
            Place,
            "SELECT a.*, d.name, d.seen, coalesce(s.streak, 0) AS streak,"
            " coalesce(s.failed, 0) AS failed, s.failed_at"
            f" FROM (SELECT * {_IN_ROUND} AND"
            " ($3 = '' OR (assigned, id) > (SELECT assigned, id FROM assignments WHERE id = $3))"
            " ORDER BY assigned, id LIMIT $4) a"
            " JOIN devices d ON d.id = a.device"
            " LEFT JOIN standings s ON s.device = a.device AND s.task = a.task"
            " ORDER BY a.assigned, a.id",
            *(task, number, after, limit),
        )
    )


def outcomes(task: str, number: int) -> Steps[list[Outcome]]:
    """What became of everyone in a round, in numbers."""
    found = yield from rows(
        f"SELECT state, reason, count(*) AS found {_IN_ROUND}"
        " GROUP BY state, reason ORDER BY state, reason",
        *(task, number),
    )
    return [Outcome(row["state"], row["reason"], int(row["found"])) for row in found]


def selected(task: str, number: int) -> Steps[int]:
    """How many devices were given a place in a round."""
    row = yield from one(
        "SELECT count(*) AS found FROM assignments WHERE task = $1 AND round = $2", task, number
    )
    return int(row["found"]) if row else 0


def came_late(assignment: str, now: float) -> Steps[float | None]:
    """An update came though it can count no more: note when, the first time. Returns how many
    seconds after its round's end that was, 0 when the round still closes; `None` when it was noted
    before, or the assignment is of no round that has ended so."""
    row = yield from one(
        "UPDATE assignments SET late = $2 WHERE id = $1 AND late IS NULL"
        " AND state IN ('working', 'expired') RETURNING task, round",
        *(assignment, now),
    )
    if row is None:
        return None
    ended = yield from one(
        "SELECT ended FROM rounds WHERE task = $1 AND number = $2", row["task"], row["round"]
    )
    if ended is None or ended["ended"] is None:
        return 0.0
    return max(0.0, now - float(ended["ended"]))


def devices(after: str, limit: int, troubled: bool) -> Steps[list[DeviceRecord]]:
    """Up to `limit` devices by id, from the one after `after` on; with `troubled` only those that
    have failed so often in a row that they rest, or did."""
    rest = (
        f" AND EXISTS (SELECT 1 FROM standings WHERE device = devices.id AND streak > {FORGIVEN})"
        if troubled
        else ""
    )
    text = f"SELECT * FROM devices WHERE id > $1{rest} ORDER BY id LIMIT $2"
    return (yield from records(DeviceRecord, text, after, limit))


def standings(devices: Sequence[DeviceRecord]) -> Steps[dict[str, list[StandingRecord]]]:
    """Where each of some devices stands, in the tasks that it has failed in."""
    if not devices:
        return {}
    found = yield from records(
        StandingRecord,
        "SELECT * FROM standings WHERE device >= $1 AND device <= $2 AND failed > 0"
        " ORDER BY device, task",
        *(devices[0].id, devices[-1].id),
    )
    by_device: dict[str, list[StandingRecord]] = {}
    for standing in found:
        by_device.setdefault(standing.device, []).append(standing)
    return by_device
