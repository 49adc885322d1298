"""Who may take part in a task, in numbers: what selection is made with."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from coordinator.selection import Crowd, Standing, rests_until
from coordinator.selection.standing import FORGIVEN, RESTING
from coordinator.store.sql import Row, Steps, one, rows

_PAGE = 1000
_BOAST = 10  # medians: more examples than so many are not believed when a mean is taken


def crowd(task: str, labels: Mapping[str, str], since: float, now: float) -> Steps[Crowd]:
    """The devices that carry these labels and have been seen `since`, but for those at rest: no
    place is kept for one that would not be given it."""
    population = yield from _labelled(labels, since)
    examples = yield from _examples(task)
    served: Counter[int] = Counter()
    for row in (
        yield from rows(
            "SELECT accepted, count(*) AS devices FROM standings WHERE task = $1 GROUP BY accepted",
            task,
        )
    ):
        served[int(row["accepted"])] = int(row["devices"])
    last: str | None = ""
    while last is not None:
        page = yield from _troubled(task, last, now)
        last = page[-1]["device"] if page else None
        for row in _resting(page, now):
            served[int(row["accepted"])] -= 1
            if row["seen"] >= since and _carries(labels, row):
                population -= 1
    accepted = {level: number for level, number in served.items() if number > 0}
    return Crowd(population=max(0, population), examples=examples, accepted=accepted)


def _labelled(labels: Mapping[str, str], since: float) -> Steps[int]:
    """How many devices carry all of these labels and have been seen since."""
    if not labels:
        row = yield from one("SELECT count(*) AS found FROM devices WHERE seen >= $1", since)
        return int(row["found"]) if row else 0
    found, last = 0, ""
    while page := (
        yield from rows(
            "SELECT id, labels FROM devices WHERE id > $1 AND seen >= $3 ORDER BY id LIMIT $2",
            *(last, _PAGE, since),
        )
    ):
        last = page[-1]["id"]
        found += sum(_carries(labels, row) for row in page)
    return found


def _carries(labels: Mapping[str, str], row: Row) -> bool:
    found: dict[str, Any] = msgspec.json.decode(row["labels"], type=dict[str, str])
    return labels.items() <= found.items()


def _examples(task: str) -> Steps[float | None]:
    """The mean number of examples of the devices that have had a place in a task, no boast of one
    shifting it far."""
    known = yield from one("SELECT count(examples) AS devices FROM standings WHERE task = $1", task)
    middle = yield from one(
        "SELECT examples FROM standings WHERE task = $1 AND examples IS NOT NULL"
        " ORDER BY examples LIMIT 1 OFFSET $2",
        *(task, (int(known["devices"]) - 1) // 2 if known and known["devices"] else 0),
    )
    most = _BOAST * int(middle["examples"]) if middle else 0
    mean = yield from one(
        "SELECT avg(CASE WHEN examples > $2 THEN $2 ELSE examples END) AS mean FROM standings"
        " WHERE task = $1 AND examples IS NOT NULL",
        *(task, most),
    )
    average = mean["mean"] if mean else None
    return None if average is None else float(average)


def _troubled(task: str, after: str, now: float) -> Steps[list[Row]]:
    """A page of those that failed so often, and so lately, that they may be at rest."""
    return (
        yield from rows(
            "SELECT s.device, s.accepted, s.streak, s.failed_at, d.seen, d.labels"
            " FROM standings s JOIN devices d ON d.id = s.device"
            f" WHERE s.task = $1 AND s.streak > {FORGIVEN} AND s.failed_at > $3 AND s.device > $2"
            " ORDER BY s.device LIMIT $4",
            *(task, after, now - RESTING.limit, _PAGE),
        )
    )


def _resting(page: list[Row], now: float) -> Iterator[Row]:
    for row in page:
        until = rests_until(Standing(streak=int(row["streak"]), failed_at=row["failed_at"]))
        if until is not None and until > now:
            yield row
