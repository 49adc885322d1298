"""The store's transactions: each whole or not at all, and what they refuse. On SQLite; what every
driver keeps to is in `tests.coordinator.store`."""

import asyncio
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from coordinator import credentials
from coordinator.errors import Denied, Unavailable
from coordinator.round import Arrival, Ending, Late, Phase, Reason, Round, RoundPolicy
from coordinator.start import admin_token, open_coordinator
from coordinator.store import assignments, crowds, devices, ending, evaluations, rounds, sums, tasks
from coordinator.store.assignments import Arrived
from coordinator.store.ending import Closing
from coordinator.store.records import (
    AssignmentRecord,
    DeviceRecord,
    EvaluationRecord,
    ModelRecord,
    TaskRecord,
)
from coordinator.store.rounds import Terms
from coordinator.store.sql import Steps, Store, StoreError, rows
from coordinator.store.sqlite import open_sqlite
from fleet.clients import FACTS
from schedules.clock import SystemClock
from tests.coordinator.plans import plan
from tests.coordinator.serving import serving
from wire.messages import WaitReason

TASK = TaskRecord(name="digits", state="running", definition="...", plan="plan", created=1.0)
DEVICE = DeviceRecord(
    id="device-1",
    name="pi",
    secret="hash",
    labels={"site": "north"},
    facts=FACTS,
    enrolled=2.0,
    seen=2.0,
)
POLICY = RoundPolicy(goal=2, minimum=1, deadline=100.0)
TERMS = Terms("digits", POLICY, 2.0, 3.0, 0)
FOLD = TERMS._replace(policy=RoundPolicy(2, 1, 100.0, Late.FOLD, max_staleness=2))
BUFFER = TERMS._replace(policy=RoundPolicy(2, 1, 100.0, Late.BUFFER, max_staleness=2))
NODE = "node-1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with a task and five devices."""
    async with open_sqlite(tmp_path / "state", NODE, SystemClock()) as found:
        first = Round(1, 0, POLICY, 4, 1.0)
        assert await found.run(tasks.create, TASK, "model-0", first)
        await found.run(devices.add_token, "join-1", "hash", 5, 1e12)
        for number in range(1, 6):
            device = msgspec.structs.replace(DEVICE, id=f"device-{number}")
            assert await found.run(devices.enroll, device, "join-1")
        yield found


async def assign(store: Store, number: int, now: float, terms: Terms = TERMS) -> AssignmentRecord:
    made = await store.run(
        assignments.assign, terms, f"a-{number}", f"device-{number}", 1 << 61, now
    )
    assert not isinstance(made, WaitReason), made
    return made[0]


def update(number: int, data: bytes = b"update") -> Arrived:
    return Arrived(f"a-{number}", data, "sha256:00", 10 * number, 3, 0.5)


async def accept(
    store: Store, now: float, *numbers: int, terms: Terms = TERMS
) -> list[tuple[Arrival, int]]:
    found = await store.run(assignments.accept, terms, [update(n) for n in numbers], NODE, now)
    return found.arrivals


async def closed(store: Store, now: float, terms: Terms = TERMS) -> Round:
    """Close the open round, if it is due, with a model of its own name."""
    closing = await store.run(ending.begin_close, terms, NODE, now)
    if isinstance(closing, Round):
        return closing
    assert closing is not None
    version = closing.model.version + 1
    model = ModelRecord(task="digits", version=version, digest=f"model-{version}", created=now)
    ended = await store.run(
        ending.finish_close, terms, NODE, closing.round, model, 30, {}, now + 1.0
    )
    assert ended is not None
    return ended


# Tasks and rounds


async def test_a_new_task_has_a_model_and_an_open_round(store: Store):
    assert await store.read(tasks.tasks) == [TASK]
    model = await store.read(tasks.newest_model, "digits")
    assert (model.version, model.digest) == (0, "model-0")
    (found,) = await store.read(rounds.rounds, "digits", 10)
    assert (found.number, found.version, found.phase, found.started) == (1, 0, "open", None)


async def test_two_tasks_of_one_name_cannot_be(store: Store):
    assert not await store.run(tasks.create, TASK, "other", Round(1, 0, POLICY, 4, 1.0))
    assert (await store.read(tasks.newest_model, "digits")).digest == "model-0"


async def test_the_first_assignment_starts_the_rounds_clock(store: Store):
    first = await assign(store, 1, 3.0)
    await assign(store, 2, 9.0)
    found = await store.read(rounds.load, TERMS)
    assert (found.started, found.working, found.phase) == (3.0, 2, Phase.SELECTING)
    assert [row.id for row in await store.read(assignments.assignments, "digits", 1)] == [
        "a-1",
        "a-2",
    ]
    assert await store.read(assignments.assignment, "a-1") == first
    assert await store.read(assignments.assignment, "a-3") is None


async def test_a_device_has_one_place_at_a_time(store: Store):
    await assign(store, 1, 3.0)
    again = await store.run(assignments.assign, TERMS, "a-9", "device-1", 1, 3.0)
    assert again is WaitReason.ALREADY_SERVED
    assert (await store.read(rounds.load, TERMS)).working == 1


async def test_places_are_given_away_once_however_many_ask_at_once(store: Store):
    made = await asyncio.gather(
        *(
            store.run(assignments.assign, TERMS, f"a-{n}", f"device-{1 + n % 5}", 1, 3.0)
            for n in range(20)
        )
    )
    given = [row for row in made if not isinstance(row, WaitReason)]
    assert len({row.device for row, _ in given}) == len(given) == 4
    assert (await store.read(rounds.load, TERMS)).phase is Phase.REPORTING


async def test_an_assignment_ends_once(store: Store):
    held = await assign(store, 1, 3.0)
    assert await accept(store, 4.0, 1) == [(Arrival.COUNTS, 0)]
    assert await store.run(assignments.drop, TERMS, "a-1", "refused", "bad", "no", 5.0) is None
    assert await accept(store, 6.0, 1, 1) == [(Arrival.DUPLICATE, 0)] * 2
    found = await store.read(assignments.assignment, "a-1")
    assert found == msgspec.structs.replace(
        held,
        state="accepted",
        ended=4.0,
        counted=1,
        node=NODE,
        tag=sums.tag("a-1"),
        length=6,
        digest="sha256:00",
        examples=10,
        steps=3,
        loss=0.5,
    )
    assert await store.read(sums.kept, "a-1") == b"update"
    after = await store.read(rounds.load, TERMS)
    assert (after.working, after.arrived, after.dropped) == (0, 1, 0)


async def test_an_update_twice_in_one_batch_counts_once(store: Store):
    await assign(store, 1, 3.0)
    assert [a for a, _ in await accept(store, 4.0, 1, 1)] == [Arrival.COUNTS, Arrival.DUPLICATE]
    assert (await store.read(rounds.load, TERMS)).arrived == 1


async def test_a_dropped_update_says_why_and_frees_its_place(store: Store):
    held = await assign(store, 1, 3.0)
    after = await store.run(assignments.drop, TERMS, "a-1", "given_up", "on_battery", "12 %", 5.0)
    assert after == await store.read(rounds.load, TERMS)
    assert (after.working, after.dropped) == (0, 1)
    assert await store.read(assignments.assignment, "a-1") == msgspec.structs.replace(
        held, state="given_up", reason="on_battery", detail="12 %", ended=5.0
    )
    assert await accept(store, 6.0, 1) == [(Arrival.LATE, 0)]


async def test_an_update_of_a_device_that_left_is_late(store: Store):
    await assign(store, 1, 3.0)
    assert await store.run(devices.withdraw, "device-1", {"digits": TERMS})
    assert await accept(store, 4.0, 1) == [(Arrival.LATE, 0)]
    with pytest.raises(Denied):
        await store.run(assignments.assign, TERMS, "a-9", "device-1", 1, 5.0)
    assert (await store.read(rounds.load, TERMS)).working == 0


async def test_a_round_ends_publishes_and_opens_the_next_in_one_step(store: Store):
    for number in (1, 2, 3):
        await assign(store, number, 3.0 * number)
    await accept(store, 20.0, 1, 2)
    ended = await closed(store, 21.0)
    assert (ended.phase, ended.arrived, ended.published) == (Phase.CLOSED, 2, True)
    first, second = await store.read(rounds.rounds, "digits", 10)
    assert (first.phase, first.reason, first.arrived, first.examples) == ("closed", "goal", 2, 30)
    assert (second.number, second.version, second.phase, second.opened) == (2, 1, "open", 22.0)
    assert (await store.read(tasks.newest_model, "digits")).digest == "model-1"
    found = await store.read(assignments.assignments, "digits", 1)
    assert {row.id: row.state for row in found} == {
        "a-1": "accepted",
        "a-2": "accepted",
        "a-3": "expired",
    }
    assert await store.read(sums.kept, "a-1") is None


async def test_who_had_less_time_than_the_slowest_that_counts_is_not_called_a_failure(
    store: Store,
):
    for number, now in ((1, 3.0), (3, 4.5), (2, 8.0), (4, 15.0)):
        await assign(store, number, now)
    await accept(store, 12.0, 1)
    await accept(store, 19.0, 2)  # after 11 s: 3 had 14.5 s and did not come, 4 had 4 s
    await closed(store, 500.0)  # nobody looked earlier, which is no device's fault
    (first, _) = await store.read(rounds.rounds, "digits", 10)
    assert (first.arrived, first.dropped, first.working) == (2, 1, 1)
    failures = {}
    for number in (3, 4):
        _, (standing,) = await store.read(assignments.at_work, f"device-{number}")
        failures[number] = (standing.failed, standing.streak)
    assert failures == {3: (1, 1), 4: (0, 0)}


async def test_a_coordinator_that_was_away_calls_nobody_a_failure_for_that(store: Store):
    for number, now in ((1, 3.0), (2, 4.0), (3, 50.0)):
        await assign(store, number, now)
    await accept(store, 93.0, 1)  # after 90 s
    await closed(store, 1e6)  # 2 had 99 s until the deadline, 3 had 53 s
    (first, _) = await store.read(rounds.rounds, "digits", 10)
    assert (first.reason, first.dropped, first.working) == ("deadline", 1, 1)
    _, (standing,) = await store.read(assignments.at_work, "device-3")
    assert standing.failed == 0


async def test_an_abandoned_round_publishes_nothing(store: Store):
    await assign(store, 1, 3.0)
    ended = await closed(store, 104.0)
    assert ended.ending == Ending(Phase.ABANDONED, Reason.TOO_FEW)
    first, second = await store.read(rounds.rounds, "digits", 10)
    assert (first.phase, first.dropped, first.working) == ("abandoned", 1, 0)
    assert second.version == 0


async def test_a_task_that_is_done_has_no_next_round(store: Store):
    terms = TERMS._replace(rounds=1)
    for number in (1, 2):
        await assign(store, number, 3.0, terms)
    await accept(store, 4.0, 1, 2, terms=terms)
    await closed(store, 5.0, terms)
    assert (await store.read(tasks.tasks))[0].state == "done"
    assert len(await store.read(rounds.rounds, "digits", 10)) == 1


async def test_a_round_has_one_closer_and_who_is_overtaken_publishes_nothing(store: Store):
    for number in (1, 2):
        await assign(store, number, 3.0)
    await accept(store, 4.0, 1, 2)
    begun = await asyncio.gather(
        *(store.run(ending.begin_close, TERMS, f"node-{n}", 5.0) for n in range(4))
    )
    assert [isinstance(b, Closing) for b in begun] == [True, False, False, False]
    assert await store.run(ending.take_over, TERMS, "node-7", {"node-0"}) is None
    taken = await store.run(ending.take_over, TERMS, "node-7", {"node-1"})
    assert isinstance(taken, Closing)
    model = ModelRecord(task="digits", version=1, digest="model-1", created=6.0)
    finish = (taken.round, model, 30, {}, 6.0)
    assert await store.run(ending.finish_close, TERMS, "node-0", *finish) is None
    assert await store.run(ending.finish_close, TERMS, "node-7", *finish) is not None
    assert await store.run(ending.finish_close, TERMS, "node-7", *finish) is None
    assert len(await store.read(rounds.rounds, "digits", 10)) == 2


async def test_nothing_counts_while_a_round_closes(store: Store):
    for number in (1, 2, 3):
        await assign(store, number, 3.0)
    await accept(store, 4.0, 1, 2)
    closing = await store.run(ending.begin_close, TERMS, NODE, 5.0)
    assert isinstance(closing, Closing)
    assert await accept(store, 6.0, 3) == [(Arrival.LATE, 0)]
    refused = await store.run(assignments.assign, TERMS, "a-4", "device-4", 1, 6.0)
    assert refused is WaitReason.ROUND_FULL
    assert await store.run(ending.begin_close, TERMS, NODE, 7.0, stopped=True) is None


async def test_a_step_that_fails_half_way_leaves_nothing(store: Store):
    for number in (1, 2):
        await assign(store, number, 3.0)
    await accept(store, 4.0, 1, 2)
    closing = await store.run(ending.begin_close, TERMS, NODE, 5.0)
    assert isinstance(closing, Closing)
    taken = ModelRecord(task="digits", version=0, digest="model-1", created=5.0)  # there is one
    with pytest.raises(Exception, match="UNIQUE"):
        await store.run(ending.finish_close, TERMS, NODE, closing.round, taken, 30, {}, 6.0)
    (found,) = await store.read(rounds.rounds, "digits", 10)
    assert (found.phase, found.examples) == ("closing", 30)
    assert await store.read(sums.kept, "a-1") == b"update"


async def test_lost_updates_no_longer_count_and_say_why(store: Store):
    for number in (1, 2):
        await assign(store, number, 3.0)
    await accept(store, 4.0, 1, 2)
    closing = await store.run(ending.begin_close, TERMS, NODE, 5.0)
    assert isinstance(closing, Closing)
    model = ModelRecord(task="digits", version=1, digest="model-1", created=6.0)
    ended = await store.run(
        ending.finish_close, TERMS, NODE, closing.round, model, 20, {"a-1": "gone"}, 6.0
    )
    assert ended is not None
    assert ended.arrived == 1
    lost = await store.read(assignments.assignment, "a-1")
    assert lost is not None
    assert (lost.state, lost.reason, lost.detail) == ("refused", "lost", "gone")
    assert (await store.read(rounds.rounds, "digits", 2))[0].examples == 20


# Late


async def test_an_update_that_waits_counts_in_the_next_round_with_its_age(store: Store):
    for number in (1, 2, 3):
        await assign(store, number, 3.0, FOLD)
    await accept(store, 4.0, 1, 2, terms=FOLD)
    closing = await store.run(ending.begin_close, FOLD, NODE, 5.0)
    assert isinstance(closing, Closing)
    assert await accept(store, 5.5, 3, terms=FOLD) == [(Arrival.WAIT, 0)]
    model = ModelRecord(task="digits", version=1, digest="model-1", created=6.0)
    await store.run(ending.finish_close, FOLD, NODE, closing.round, model, 30, {}, 6.0)
    assert await accept(store, 7.0, 3, terms=FOLD) == [(Arrival.COUNTS, 1)]
    row = await store.read(assignments.assignment, "a-3")
    assert row is not None
    assert (row.round, row.counted, row.version) == (1, 2, 0)
    found = await store.read(rounds.load, FOLD)
    assert (found.number, found.arrived, found.working, found.started) == (2, 1, 0, 7.0)


async def test_devices_at_work_keep_their_places_across_closes(store: Store):
    for number in (1, 2, 3):
        await assign(store, number, 3.0, BUFFER)
    await accept(store, 4.0, 1, 2, terms=BUFFER)
    await closed(store, 5.0, BUFFER)
    found = await store.read(rounds.load, BUFFER)
    assert (found.number, found.working, found.arrived) == (2, 1, 0)


@pytest.mark.parametrize("how", ["gives up", "leaves"])
async def test_a_place_that_is_freed_while_a_round_closes_is_free_in_the_next(
    store: Store, how: str
):
    for number in (1, 2, 3):
        await assign(store, number, 3.0, BUFFER)
    await accept(store, 4.0, 1, 2, terms=BUFFER)
    closing = await store.run(ending.begin_close, BUFFER, NODE, 5.0)
    assert isinstance(closing, Closing)
    if how == "gives up":
        await store.run(assignments.drop, BUFFER, "a-3", "given_up", "owner", "", 5.5)
    else:
        await store.run(devices.withdraw, "device-3", {"digits": BUFFER})
    model = ModelRecord(task="digits", version=1, digest="model-1", created=6.0)
    await store.run(ending.finish_close, BUFFER, NODE, closing.round, model, 30, {}, 6.0)
    assert (await store.read(rounds.load, BUFFER)).working == 0


async def test_silent_devices_do_not_hold_their_places_for_ever(store: Store):
    terms = BUFFER._replace(over_selection=1.0, over_selection_limit=1.0)
    now = 3.0
    for number in (1, 2, 3, 4):
        await assign(store, number, now, terms)
    for _ in range(3):  # max_staleness, and the round itself
        found = await store.read(rounds.load, terms)
        assert found.working == 4
        assert found.deadline is not None, "nobody would ever start it"
        now = found.deadline + 1.0
        await closed(store, now, terms)
    found = await store.read(rounds.load, terms)
    assert (found.number, found.working, found.started) == (4, 0, None)
    row = await store.read(assignments.assignment, "a-1")
    assert row is not None
    assert row.state == "expired"
    assert await accept(store, now, 1, terms=terms) == [(Arrival.LATE, 0)]


# Devices


async def test_a_token_is_good_so_often_and_so_long(store: Store):
    await store.run(devices.add_token, "join-2", "secret", 1, 50.0)
    assert await store.read(devices.token_secret, "join-2", 49.0) == "secret"
    assert await store.read(devices.token_secret, "join-2", 50.0) is None
    assert await store.read(devices.token_secret, "join-3", 1.0) is None
    late = msgspec.structs.replace(DEVICE, id="device-7", enrolled=50.0)
    assert not await store.run(devices.enroll, late, "join-2")
    in_time = msgspec.structs.replace(late, enrolled=49.0)
    assert await store.run(devices.enroll, in_time, "join-2")
    assert await store.read(devices.token_secret, "join-2", 1.0) is None
    again = msgspec.structs.replace(in_time, id="device-8")
    assert not await store.run(devices.enroll, again, "join-2")
    assert await store.read(devices.population) == 6


async def test_a_token_of_one_use_makes_one_device_however_many_ask_at_once(store: Store):
    await store.run(devices.add_token, "join-2", "secret", 1, 50.0)
    some = [msgspec.structs.replace(DEVICE, id=f"new-{n}") for n in range(8)]
    made = await asyncio.gather(*(store.run(devices.enroll, d, "join-2") for d in some))
    assert sum(made) == 1


async def test_devices_come_in_pages(store: Store):
    first = await store.read(devices.devices, "", 2)
    second = await store.read(devices.devices, first[-1].id, 9)
    assert [d.id for d in first + second] == [f"device-{n}" for n in range(1, 6)]
    assert first[0] == DEVICE


async def test_a_devices_last_word_is_kept(store: Store):
    facts = msgspec.structs.replace(FACTS, agent="9.9")
    await store.run(devices.saw, {"device-1": (facts, 8.0), "nobody": (facts, 9.0)})
    expected = msgspec.structs.replace(DEVICE, facts=facts, seen=8.0)
    assert await store.read(devices.device, "device-1") == expected


async def test_a_later_evaluation_replaces_an_earlier_one(store: Store):
    first = EvaluationRecord(
        task="digits", version=0, device="device-1", examples=9, metrics={"loss": 1.0}
    )
    second = msgspec.structs.replace(first, metrics={"loss": 0.5})
    await store.run(evaluations.add, [first])
    await store.run(evaluations.add, [second])
    (found,) = await store.read(evaluations.look, "digits", 0)
    assert (found.metric, found.mean, found.devices, found.examples) == ("loss", 0.5, 1, 9)
    assert await store.read(evaluations.look, "digits", 1) == []
    assert await store.read(evaluations.look, "other", 0) == []
    stranger = msgspec.structs.replace(first, device="nobody")
    with pytest.raises(Denied):
        await store.run(evaluations.add, [second, stranger])


async def test_devices_are_counted_by_their_labels(store: Store):
    south = msgspec.structs.replace(DEVICE, id="south", labels={"site": "south", "rack": "7"})
    await store.run(devices.add_token, "join-2", "secret", 1, 50.0)
    await store.run(devices.enroll, south, "join-2")
    for labels, count in (({}, 6), ({"site": "north"}, 5), ({"rack": "7"}, 1), ({"rack": "8"}, 0)):
        found = await store.read(crowds.crowd, "digits", labels, 0.0, 3.0)
        assert found.population == count
    assert (await store.read(crowds.crowd, "digits", {}, 2.5, 3.0)).population == 0


@pytest.mark.parametrize("page", [1, 1000])
async def test_who_rests_is_not_of_the_crowd(
    store: Store, page: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(crowds, "_PAGE", page)

    def failed(at: float) -> Steps[None]:
        for device, streak in (("device-1", 3), ("device-2", 3), ("device-3", 2)):
            text = "INSERT INTO standings VALUES ($1, 'digits', 1, $2, 3, $3, $4, 10, 1.0)"
            yield from rows(text, device, int(device[-1]) - 1, streak, at)

    await store.run(failed, 100.0)
    north = {"site": "north"}
    for labels in ({}, north):
        resting = await store.read(crowds.crowd, "digits", labels, 0.0, 101.0)
        assert (resting.population, resting.accepted) == (3, {2: 1})
    unseen = await store.read(crowds.crowd, "digits", north, 2.5, 101.0)
    assert (unseen.population, unseen.accepted) == (0, {2: 1})
    rested = await store.read(crowds.crowd, "digits", north, 0.0, 100.0 + 601.0)
    assert (rested.population, rested.accepted) == (5, {0: 1, 1: 1, 2: 1})


async def test_who_leaves_takes_all_that_is_known_of_it_and_nothing_else(store: Store):
    for number in (1, 2):
        await assign(store, number, 3.0)
    await accept(store, 4.0, 1)
    said = EvaluationRecord(
        task="digits", version=0, device="device-1", examples=9, metrics={"loss": 1.0}
    )
    await store.run(evaluations.add, [said])
    withdrawn = await store.run(devices.withdraw, "device-1", {"digits": TERMS})
    assert withdrawn is not None
    assert (withdrawn.dropped, withdrawn.published) == (1, 0)
    ((row, data),) = withdrawn.kept
    assert (row.id, data) == ("a-1", b"update")
    assert await store.read(sums.kept, "a-1") is None
    found = await store.read(rounds.load, TERMS)
    assert (found.working, found.arrived, found.dropped, found.started) == (1, 0, 0, 3.0)
    assert (await store.read(rounds.rounds, "digits", 1))[0].examples == 0
    for table in ("assignments", "standings", "evaluations", "payloads"):
        column = "assignment" if table == "payloads" else "device"
        held = await store.read(rows, f"SELECT {column} AS held FROM {table}")
        assert not {"device-1", "a-1"} & {r["held"] for r in held}
    assert await store.run(devices.withdraw, "device-1", {"digits": TERMS}) is None


async def test_who_leaves_while_a_model_is_made_with_its_update_is_asked_to_wait(store: Store):
    for number in (1, 2):
        await assign(store, number, 3.0)
    await accept(store, 4.0, 1, 2)
    closing = await store.run(ending.begin_close, TERMS, NODE, 5.0)
    assert isinstance(closing, Closing)
    with pytest.raises(Unavailable, match="closing"):
        await store.run(devices.withdraw, "device-1", {"digits": TERMS})
    assert await store.read(devices.device, "device-1") is not None
    model = ModelRecord(task="digits", version=1, digest="model-1", created=6.0)
    await store.run(ending.finish_close, TERMS, NODE, closing.round, model, 30, {}, 6.0)
    withdrawn = await store.run(devices.withdraw, "device-1", {"digits": TERMS})
    assert withdrawn is not None
    assert (withdrawn.dropped, withdrawn.published, withdrawn.kept) == (0, 1, [])


# The token and the folder


def test_the_admin_token_is_made_once_and_long_and_its_owners_alone(tmp_path: Path):
    token = admin_token(tmp_path)
    assert len(token) == 64
    assert admin_token(tmp_path) == token
    assert stat.S_IMODE((tmp_path / "admin.token").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"two\nlines"])
def test_an_admin_token_that_is_none_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "admin.token").write_bytes(content)
    with pytest.raises(StoreError, match=r"admin\.token"):
        admin_token(tmp_path)


async def test_a_damaged_plan_is_one_line_at_the_start(tmp_path: Path):
    async with serving(tmp_path) as served:
        await plan().create(served.admin)
        path = await served.coordinator.services.blobs.source(served.task().record.plan)
    await asyncio.to_thread(path.unlink)
    with pytest.raises(StoreError, match="task digits") as refused:
        async with open_coordinator(tmp_path):
            pass
    assert "\n" not in str(refused.value)


# Credentials


@pytest.mark.parametrize("guess", ["", "x", "é", "\udcff", "a" * 10_000])
def test_a_guess_is_no_match_whatever_it_holds(guess: str):
    assert not credentials.matches(guess, credentials.hashed("secret"))
    assert credentials.matches("secret", credentials.hashed("secret"))


def test_ids_and_secrets_never_meet():
    assert len({credentials.new_id("device") for _ in range(1000)}) == 1000
    assert credentials.split("device-1.abc.def") == ("device-1", "abc.def")
    assert credentials.split("device-1") == ("", "")
