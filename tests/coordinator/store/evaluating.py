"""What devices say, asked of any store: the database's figures are those of `coordinator.spread`.

`await fleet_of(store, devices)` first; then `await says_thesame(store, version, words)`.
"""

import random

import pytest

from coordinator.figures import MetricView, metric_views
from coordinator.round import Round, RoundPolicy
from coordinator.spread import gain, spread
from coordinator.store import evaluations, tasks
from coordinator.store.records import DeviceRecord, EvaluationRecord, TaskRecord
from coordinator.store.sql import Steps, Store, insert
from fleet.clients import FACTS
from wire.plan import Metric

METRICS = (Metric(name="loss"), Metric(name="accuracy", better="higher"))

Word = tuple[float, int, float | None]
"""One device's: the value, the examples, the value of its personal version."""


async def fleet_of(store: Store, number: int) -> None:
    """A task, and so many devices."""
    record = TaskRecord(name="digits", state="running", definition="", plan="sha256:1", created=1.0)
    first = Round(1, 0, RoundPolicy(goal=9, minimum=1, deadline=60.0), 9, 99.0)
    await store.run(tasks.create, record, "sha256:2", first)
    await store.run(joined, number)


def joined(number: int) -> Steps[None]:
    """So many devices."""
    for each in range(number):
        yield from insert(
            "devices",
            DeviceRecord(
                id=f"device-{each}",
                name="pi",
                secret="",
                labels={},
                facts=FACTS,
                enrolled=1.0,
                seen=1.0,
            ),
        )


def said(version: int, words: list[Word]) -> list[EvaluationRecord]:
    """Each device's word of a version: the same of both metrics."""
    return [
        EvaluationRecord(
            task="digits",
            version=version,
            device=f"device-{number}",
            examples=examples,
            metrics={"loss": value, "accuracy": value},
            personal={} if own is None else {"loss": own, "accuracy": own},
        )
        for number, (value, examples, own) in enumerate(words)
    ]


async def says_thesame(store: Store, version: int, words: list[Word]) -> None:
    """The store's figures of these words are those of the pure functions."""
    await store.run(evaluations.add, said(version, words))
    views = metric_views(await store.survey(evaluations.look, "digits", version), METRICS)
    assert [(view.name, view.better) for view in views] == [
        ("loss", "lower"),
        ("accuracy", "higher"),
    ]
    for view in views:
        same(view, words)


def same(view: MetricView, words: list[Word]) -> None:
    """The figures that the database has of these words are those of the pure functions."""
    expected = spread([(value, examples) for value, examples, _ in words], view.better)
    assert (view.devices, view.examples) == (expected.devices, expected.examples)
    size = max(abs(value) for value, _, _ in words)

    def near(value: float) -> object:
        return pytest.approx(value, rel=1e-9, abs=1e-9 * size)

    assert view.mean == near(expected.mean)
    assert view.deviation == near(expected.deviation)
    assert view.worst_decile == near(expected.worst_decile)
    assert view.worst == (min if view.better == "higher" else max)(value for value, _, _ in words)
    pairs = [(value, own) for value, _, own in words if own is not None]
    if not pairs:
        assert view.personal is None
        return
    gained, found = gain(pairs, view.better), view.personal
    assert found is not None
    assert (found.devices, found.gaining) == (gained.devices, gained.gaining)
    assert (found.median, found.mean) == (near(gained.median), near(gained.mean))


def words_of(devices: int, seed: int, personal: float = 0.7) -> list[Word]:
    """Made-up words: a part of them with a personal version, some of which change nothing."""
    rng = random.Random(seed)
    words: list[Word] = []
    for _ in range(devices):
        value = rng.choice([rng.random(), 0.5])
        own = rng.choice([value, value + rng.gauss(0.0, 0.1)])
        words.append((value, rng.randint(1, 500), own if rng.random() < personal else None))
    return words


async def asked_of(store: Store) -> None:
    """Fleets of several sizes; a version whose rows are cleared, piece by piece."""
    await fleet_of(store, 101)
    sizes = (1, 2, 9, 10, 11, 20, 101)
    for version, devices in enumerate(sizes):
        await says_thesame(store, version, words_of(devices, seed=version))
    await says_thesame(store, 7, words_of(10, seed=7, personal=0.0))
    await says_thesame(store, 8, [(1e9 + n / 8, 1, None) for n in range(16)])  # far from zero
    await says_thesame(store, 9, [(3.4e38, 1 << 31, -3.4e38), (-3.4e38, 1, None)])
    assert await store.read(evaluations.oldest, "digits") == 0
    assert await store.read(evaluations.newest, "digits") == 9
    await _again(store)
    await _cleared(store)


async def _again(store: Store) -> None:
    """A device's last word counts, also when it has no personal version any more."""
    await store.run(evaluations.add, said(0, [(0.5, 3, 0.75)]))
    await says_thesame(store, 0, [(0.25, 4, None)])


async def _cleared(store: Store) -> None:
    found = await store.survey(evaluations.look, "digits", 6)
    assert await store.read(evaluations.kept, "digits", 0) == []
    await store.run(evaluations.keep, found)
    while await store.run(evaluations.clear, "digits", 6):
        pass
    assert await store.survey(evaluations.look, "digits", 6) == []
    assert len(await store.survey(evaluations.look, "digits", 5)) == 2
    await store.run(evaluations.add, said(6, [(0.0, 1, None)]))
    await store.run(evaluations.keep, await store.survey(evaluations.look, "digits", 6))
    assert await store.read(evaluations.kept, "digits", 6) == found
    assert await store.read(evaluations.kept, "digits", 7) == []
    assert await store.read(evaluations.kept, "other", 0) == []
