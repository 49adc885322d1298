"""The journal's questions, asked of any store: `await asked_of(store)`."""

import pytest

from coordinator.round import Round, RoundPolicy
from coordinator.store import (
    assignments,
    crowds,
    devices,
    ending,
    evaluations,
    journal,
    nodes,
    outdated,
    tasks,
)
from coordinator.store.assignments import Arrived
from coordinator.store.records import (
    DeviceRecord,
    EvaluationRecord,
    MetricRecord,
    ModelRecord,
    TaskRecord,
)
from coordinator.store.rounds import Terms
from coordinator.store.sql import Steps, Store, insert, rows
from fleet.clients import FACTS

TERMS = Terms("digits", RoundPolicy(goal=9, minimum=1, deadline=60.0), 1.0, 1.0, 0)
DEVICES = [f"device-{letter}" for letter in "abcd"]


async def asked_of(store: Store) -> None:
    """Four devices in a round: one counts, one is refused four times, two come to nothing."""
    await _fleet(store)
    for second, device in enumerate(DEVICES):
        await store.run(assignments.assign, TERMS, f"at-{device}", device, 1, 100.0 + second)
    arrived = Arrived("at-device-a", b"bytes", "sha256:0", 10, 5, 0.5)
    await store.run(assignments.accept, TERMS, [arrived], "node", 110.0)
    await store.run(assignments.drop, TERMS, "at-device-b", "refused", "too_far", "far", 111.0)
    await store.run(ending.begin_close, TERMS, "node", 120.0, stopped=True)
    await _places(store)
    await _late(store)
    await _resting(store)
    await _evaluations(store)
    await _outdated(store)


async def _fleet(store: Store) -> None:
    record = TaskRecord(name="digits", state="running", definition="", plan="sha256:1", created=1.0)
    await store.run(tasks.create, record, "sha256:2", Round(1, 0, TERMS.policy, 9, 99.0))
    await store.run(devices.add_token, "join", "secret", 9, 1e12)
    for device in DEVICES:
        joined = DeviceRecord(
            id=device, name=device, secret="", labels={}, facts=FACTS, enrolled=1.0, seen=100.0
        )
        assert await store.run(devices.enroll, joined, "join")


async def _places(store: Store) -> None:
    every = await store.read(journal.places, "digits", 1, "", 9)
    assert [place.device for place in every] == DEVICES
    assert [place.state for place in every] == ["accepted", "refused", "expired", "expired"]
    assert (every[0].counted, every[0].length, every[0].loss) == (1, 5, 0.5)
    assert (every[1].reason, every[1].detail, every[1].streak) == ("too_far", "far", 1)
    first = await store.read(journal.places, "digits", 1, "", 3)
    rest = await store.read(journal.places, "digits", 1, first[-1].id, 3)
    assert first + rest == every
    assert await store.read(journal.places, "digits", 2, "", 9) == []
    assert await store.read(journal.selected, "digits", 1) == 4
    assert await store.read(journal.outcomes, "digits", 1) == [
        ("accepted", None, 1),
        ("expired", None, 2),
        ("refused", "too_far", 1),
    ]


async def _late(store: Store) -> None:
    assert await store.run(journal.came_late, "at-device-c", 125.5) == pytest.approx(5.5)
    assert await store.run(journal.came_late, "at-device-c", 130.0) is None
    assert await store.run(journal.came_late, "at-device-a", 130.0) is None
    assert await store.run(journal.came_late, "at-nobody", 130.0) is None
    every = await store.read(journal.places, "digits", 1, "", 9)
    assert [place.late for place in every] == [None, None, 125.5, None]


async def _resting(store: Store) -> None:
    everyone = await store.read(journal.devices, "", 9, False)
    assert [device.id for device in everyone] == DEVICES
    assert await store.read(journal.devices, "", 9, True) == []
    standings = await store.read(journal.standings, everyone)
    assert "device-a" not in standings
    assert [standing.streak for standing in standings["device-b"]] == [1]
    assert await store.read(journal.standings, []) == {}
    found = await store.read(crowds.crowd, "digits", {}, 99.0, 112.0)
    assert (found.population, found.examples, found.accepted) == (4, 10.0, {0: 3, 1: 1})
    await store.run(_fails_again)
    found = await store.read(crowds.crowd, "digits", {"site": "north"}, 99.0, 112.0)
    assert (found.population, found.accepted) == (0, {0: 2, 1: 1})
    found = await store.read(crowds.crowd, "digits", {}, 99.0, 112.0)
    assert (found.population, found.accepted) == (3, {0: 2, 1: 1})


def _fails_again() -> Steps[None]:
    yield from rows("UPDATE standings SET streak = 4 WHERE device = 'device-b'")


async def _evaluations(store: Store) -> None:
    assert await store.read(evaluations.newest, "digits") is None
    said = [
        EvaluationRecord(
            task="digits", version=3, device=device, examples=examples, metrics={"loss": loss}
        )
        for device, examples, loss in (("device-a", 1, 9.0), ("device-a", 30, 1.0))
    ]
    other = EvaluationRecord(
        task="digits", version=3, device="device-b", examples=10, metrics={"loss": 5.0}
    )
    await store.run(evaluations.add, [*said, other])
    (found,) = await store.read(evaluations.look, "digits", 3)
    assert found == MetricRecord(
        task="digits",
        version=3,
        metric="loss",
        devices=2,
        examples=40,
        mean=2.0,
        deviation=2.0,
        lowest=1.0,
        highest=5.0,
        lowest_decile=1.0,
        highest_decile=5.0,
    )
    assert type(found.examples) is int
    assert await store.read(evaluations.look, "digits", 2) == []
    assert await store.read(evaluations.newest, "digits") == 3


async def _outdated(store: Store) -> None:
    def grown() -> Steps[None]:
        for version in range(1, 6):
            digest, state = f"sha256:{version % 4}", f"sha256:s{version}"
            yield from insert(
                "models",
                ModelRecord(
                    task="digits", version=version, digest=digest, state=state, created=1.0
                ),
            )

    await store.run(grown)
    found = await store.read(outdated.models, "digits", 2)
    assert [model.version for model in found] == [0, 1, 2, 3]
    gone = await store.read(outdated.unneeded, found)
    assert gone == {"sha256:2", "sha256:3", "sha256:s1", "sha256:s2", "sha256:s3"}
    await store.run(outdated.forget, found)
    assert await store.read(outdated.models, "digits", 2) == []
    assert (await store.read(tasks.newest_model, "digits")).version == 5
    await store.run(nodes.alive, "old", "host", 10.0, 0.0)
    await store.run(nodes.alive, "new", "host", 30.0, 0.0)
    await store.run(outdated.bury, 20.0)
    found = await store.run(nodes.alive, "new", "host", 30.0, 0.0)
    assert "new" in found
    assert "old" not in found
