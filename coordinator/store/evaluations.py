"""Transactions of evaluations: what devices say of a version, and how it is spread over them.

A fleet is a million rows a version and metric. They are summed in the database, each question one
pass over rows that lie together: quicker than a window function, and no list of them anywhere.
`coordinator.spread` says what the figures are. The last versions' rows are kept; of those before
them the figures, for good.
"""

import math

from coordinator.errors import unknown_device
from coordinator.spread import worst_of
from coordinator.store.records import EvaluationRecord, MetricRecord
from coordinator.store.sql import Row, Steps, insert, one, records, rows

KEPT = 50
"""Versions, the newest, of which it is kept what each device said."""

_CLEARED = 2000  # rows at once: who writes waits for it

_VERSION = "FROM evaluations WHERE task = $1 AND version = $2"
_METRIC = f"{_VERSION} AND metric = $3"


def add(evaluations: list[EvaluationRecord]) -> Steps[None]:
    """Store metrics; a device's later word on a version replaces its earlier one. Raises `Denied`
    when the device has left."""
    for said in evaluations:
        if not (yield from one("SELECT 1 FROM devices WHERE id = $1", said.device)):
            raise unknown_device()
        for metric, value in said.metrics.items():
            personal = said.personal.get(metric)
            yield from rows(
                "INSERT INTO evaluations (task, version, metric, device, value, examples, personal)"
                " VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (task, version, metric, device)"
                " DO UPDATE SET value = excluded.value, examples = excluded.examples,"
                " personal = excluded.personal",
                *(said.task, said.version, metric, said.device, float(value), said.examples),
                None if personal is None else float(personal),
            )


def newest(task: str) -> Steps[int | None]:
    """The newest version of which some device's word is here."""
    row = yield from one("SELECT max(version) AS version FROM evaluations WHERE task = $1", task)
    return None if row is None or row["version"] is None else int(row["version"])


def oldest(task: str) -> Steps[int | None]:
    """The oldest version of which some device's word is here."""
    row = yield from one("SELECT min(version) AS version FROM evaluations WHERE task = $1", task)
    return None if row is None or row["version"] is None else int(row["version"])


# Figures


def look(task: str, version: int) -> Steps[list[MetricRecord]]:
    """What devices say of one version of a task's model, by metric. Takes seconds for a million
    devices: a `Store.survey`."""
    found = yield from rows(
        "SELECT metric, count(*) AS devices, sum(examples) AS examples,"
        " sum(value * examples) / sum(examples) AS mean, avg(value) AS centre,"
        " min(value) AS lowest, max(value) AS highest, count(personal) AS tried,"
        " sum(CASE WHEN personal > value THEN 1 ELSE 0 END) AS rising,"
        " sum(CASE WHEN personal < value THEN 1 ELSE 0 END) AS falling,"
        f" avg(personal - value) AS mean_change {_VERSION} GROUP BY metric ORDER BY metric",
        *(task, version),
    )
    metrics = []
    for row in found:
        metrics.append((yield from _looked(task, version, row)))
    return metrics


def _looked(task: str, version: int, row: Row) -> Steps[MetricRecord]:
    """The figures of a metric of which the sums are known."""
    where = (task, version, row["metric"])
    devices, tried, change = int(row["devices"]), int(row["tried"]), row["mean_change"]
    return MetricRecord(
        task=task,
        version=version,
        metric=row["metric"],
        devices=devices,
        examples=int(row["examples"]),
        mean=float(row["mean"]),
        deviation=(yield from _deviation(where, float(row["centre"]))),
        lowest=float(row["lowest"]),
        highest=float(row["highest"]),
        lowest_decile=(yield from _tail(where, "ASC", worst_of(devices))),
        highest_decile=(yield from _tail(where, "DESC", worst_of(devices))),
        tried=tried,
        rising=int(row["rising"]),
        falling=int(row["falling"]),
        median_change=(yield from _median_change(where, tried)) if tried else None,
        mean_change=None if change is None else float(change),
    )


def _deviation(where: tuple[str, int, str], centre: float) -> Steps[float]:
    # In a second pass: from the sums of squares, a small one would be lost in their digits.
    row = yield from one(
        f"SELECT avg((value - $4) * (value - $4)) AS variance {_METRIC}", *where, centre
    )
    return math.sqrt(float(row["variance"])) if row else 0.0


def _tail(where: tuple[str, int, str], order: str, devices: int) -> Steps[float]:
    """The mean over so many devices, the first in this order."""
    tail = f"SELECT value {_METRIC} ORDER BY value {order} LIMIT $4"
    row = yield from one(f"SELECT avg(value) AS mean FROM ({tail}) AS tail", *where, devices)
    return float(row["mean"]) if row else 0.0


def _median_change(where: tuple[str, int, str], tried: int) -> Steps[float]:
    middle = (
        f"SELECT personal - value AS change {_METRIC} AND personal IS NOT NULL"
        " ORDER BY change LIMIT $4 OFFSET $5"
    )
    row = yield from one(
        f"SELECT avg(change) AS median FROM ({middle}) AS middle",
        *(*where, 2 - tried % 2, (tried - 1) // 2),
    )
    return float(row["median"]) if row else 0.0


# Those of long ago


def kept(task: str, since: int) -> Steps[list[MetricRecord]]:
    """The figures that were kept of versions from `since` on, by version and metric."""
    return (
        yield from records(
            MetricRecord,
            "SELECT * FROM spreads WHERE task = $1 AND version >= $2 ORDER BY version, metric",
            *(task, since),
        )
    )


def keep(found: list[MetricRecord]) -> Steps[None]:
    """Keep a version's figures, before its rows are cleared. The first that were kept stay: later
    ones may be of rows that are half cleared."""
    for record in found:
        yield from insert("spreads", record, "ON CONFLICT DO NOTHING")


def clear(task: str, version: int) -> Steps[bool]:
    """Some of what each device said of a version goes; whether there was any."""
    gone = yield from rows(
        "DELETE FROM evaluations WHERE task = $1 AND version = $2 AND (metric, device) IN"
        f" (SELECT metric, device {_VERSION} ORDER BY metric, device LIMIT $3) RETURNING version",
        *(task, version, _CLEARED),
    )
    return bool(gone)
