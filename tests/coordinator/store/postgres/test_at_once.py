"""Two processes change one round at the same moment: the second goes by what the first has left.

The first holds its locks for a while before it commits, the second begins meanwhile.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from coordinator.round import Late, Round, RoundPolicy
from coordinator.store import assignments, devices, ending, rounds, tasks
from coordinator.store.assignments import Arrived
from coordinator.store.ending import Closing
from coordinator.store.postgres import PostgresStore
from coordinator.store.records import DeviceRecord, ModelRecord, TaskRecord
from coordinator.store.rounds import Terms
from coordinator.store.sql import Steps, recall, rows
from fleet.clients import FACTS

BUFFER = Terms("a", RoundPolicy(1, 1, 60.0, Late.BUFFER, 2), 3.0, 3.0, 0)


def slow(transaction: Callable[..., Steps[Any]], *arguments: Any) -> Steps[Any]:
    """A transaction that takes its time before it commits."""
    found = yield from transaction(*arguments)
    yield from rows("SELECT pg_sleep(0.4)")
    return found


async def both(store: PostgresStore, first: tuple[Any, ...], second: tuple[Any, ...]) -> list[Any]:
    """What two transactions return, the second of which begins while the first holds its locks."""
    begun = asyncio.ensure_future(store.run(slow, *first))
    await asyncio.sleep(0.15)
    return [await store.run(*second), await begun]


@pytest.fixture
async def store(store: PostgresStore) -> PostgresStore:
    """With a task and two devices."""
    made = TaskRecord(name="a", state="running", definition="", plan="", created=0.0)
    await store.run(tasks.create, made, "m0", Round(1, 0, BUFFER.policy, 3, 0.0))
    await store.run(devices.add_token, "token", "", 9, 1e12)
    for name in ("d0", "d1"):
        device = DeviceRecord(
            id=name, name="", secret="", labels={}, facts=FACTS, enrolled=0.0, seen=0.0
        )
        await store.run(devices.enroll, device, "token")
    return store


def accepting(name: str, now: float) -> tuple[Any, ...]:
    update = Arrived(name, b"update", "sha", 5, 1, 0.5)
    return assignments.accept, BUFFER, [update], "n1", now


async def closing(store: PostgresStore) -> tuple[Any, ...]:
    """Both devices work, one's update closes the round: the transaction that ends it."""
    await store.run(assignments.assign, BUFFER, "a-d0", "d0", 7, 1.0)
    await store.run(assignments.assign, BUFFER, "a-d1", "d1", 7, 1.0)
    await store.run(*accepting("a-d0", 2.0))
    found = await store.run(ending.begin_close, BUFFER, "n1", 2.0)
    assert isinstance(found, Closing)
    model = ModelRecord(task="a", version=1, digest="m1", created=3.0)
    return ending.finish_close, BUFFER, "n1", found.round, model, 5, {}, 3.0


async def test_who_gives_up_while_a_round_ends_has_no_place_in_the_next(store: PostgresStore):
    drop = (assignments.drop, BUFFER, "a-d1", "given_up", "", "", 3.0)
    await both(store, await closing(store), drop)
    found = await store.read(rounds.load, BUFFER)
    assert (found.number, found.working) == (2, 0)


async def test_who_leaves_while_a_round_ends_has_no_place_in_the_next(store: PostgresStore):
    await both(store, await closing(store), (devices.withdraw, "d1", {"a": BUFFER}))
    found = await store.read(rounds.load, BUFFER)
    assert (found.number, found.working) == (2, 0)


async def test_who_leaves_while_its_update_is_accepted_counts_no_more(store: PostgresStore):
    await store.run(assignments.assign, BUFFER, "a-d0", "d0", 7, 1.0)
    leave = (devices.withdraw, "d0", {"a": BUFFER})
    withdrawn, _ = await both(store, accepting("a-d0", 2.0), leave)
    assert withdrawn.dropped == 1
    found = await store.read(rounds.load, BUFFER)
    assert (found.working, found.arrived) == (0, 0)
    assert await store.read(recall, "a-d0") is None


async def test_who_leaves_while_it_is_given_a_place_frees_it(store: PostgresStore):
    assign = (assignments.assign, BUFFER, "a-d0", "d0", 7, 1.0)
    withdrawn, _ = await both(store, assign, (devices.withdraw, "d0", {"a": BUFFER}))
    assert [row.id for row in withdrawn.assignments] == ["a-d0"]
    assert (await store.read(rounds.load, BUFFER)).working == 0
    assert await store.read(devices.device, "d0") is None
