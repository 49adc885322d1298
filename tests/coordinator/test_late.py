"""Late updates over real HTTP: refused, folded into the next round, or as welcome as any."""

import asyncio
import sqlite3
from itertools import pairwise

import numpy as np
import pytest

from coordinator.store import assignments
from edge_agent.errors import Rejected
from fleet.clients import Device, NoWork
from tests.coordinator.plans import constant, plan
from tests.coordinator.raw import connected, post_headers, update_path
from tests.coordinator.serving import Serving, denied, serving
from wire.checkpoint import Weights
from wire.messages import Assignment

HALF = 2**-0.5
"""What an update made from a model of one version ago weighs, by default."""


def moved(after: Weights, before: Weights) -> float:
    """By how much every weight of a model has moved."""
    difference = after["w"] - before["w"]
    np.testing.assert_allclose(difference, difference.flat[0], rtol=1e-4, atol=1e-6)
    return float(difference.flat[0])


async def counted(served: Serving, assignment: Assignment) -> tuple[int, int, int | None]:
    """The round an assignment was given in, the version it is from, the round it counts in."""
    row = await served.coordinator.services.store.read(assignments.assignment, assignment.id)
    assert row is not None
    return row.round, row.version, row.counted


async def deliver(device: Device, assignment: Assignment, value: float) -> None:
    await device.deliver(assignment, device.write(assignment, constant(value)))


async def rounds_pass(served: Serving, number: int, first: int = 1) -> None:
    """So many rounds, from number `first` on, each with one update of nothing to speak of."""
    for at in range(first, first + number):
        device = await served.device()
        await device.serve(constant(1e-6))
        served.clock.leap(601.0)
        await served.round_ends(at)


FOLD = {"late": "fold", "deadline": "10m", "over_selection": 3}


# Folded


async def test_a_late_update_counts_in_the_next_round_with_less_weight(served: Serving):
    await plan(goal=2, **FOLD).create(served.admin)
    slow, one, two, three = await served.devices(4)
    assignment = await slow.take()
    for device in (one, two):
        await device.serve(constant(1.0))
    await served.round_ends(1)
    assert await served.states() == {
        **{slow.id: "working", one.id: "accepted"},
        two.id: "accepted",
    }
    before = await served.model()
    await deliver(slow, assignment, 4.0)
    assert await counted(served, assignment) == (1, 0, 2)
    await three.serve(constant(1.0))
    await served.round_ends(2)
    # The change is scaled, the weight that it is divided by is not.
    assert moved(await served.model(), before) == pytest.approx((4 * HALF + 1) / 2, rel=1e-4)
    second = (await served.admin.task("digits")).rounds[1]
    assert (second.phase, second.reason, second.updates) == ("closed", "goal", 2)
    assert await served.states(2) == {slow.id: "accepted", three.id: "accepted"}


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("age", [1, 2, 3])
async def test_its_weight_falls_with_its_age(served: Serving, exponent: float, age: int):
    keys = FOLD | {"max_staleness": 3, "staleness_exponent": exponent}
    await plan(goal=9, **keys).create(served.admin)
    slow = await served.device()
    assignment = await slow.take()
    await rounds_pass(served, age)
    before = await served.model()
    await deliver(slow, assignment, 1.0)
    served.clock.leap(601.0)
    await served.round_ends(age + 1)
    expected = (1 + age) ** -exponent
    assert moved(await served.model(), before) == pytest.approx(expected, rel=1e-4)


async def test_one_that_is_older_than_the_task_takes_is_refused(served: Serving):
    await plan(goal=9, **FOLD, max_staleness=2).create(served.admin)
    slow = await served.device()
    assignment = await slow.take()
    await rounds_pass(served, 3)
    with pytest.raises(Rejected, match="late"):
        await deliver(slow, assignment, 100.0)
    assert (await served.states())[slow.id] == "expired"
    assert (await served.admin.tasks())[0].arrived == 0
    assert (await slow.take()).version == 3  # and it is free for other work


async def test_a_late_update_starts_the_clock_of_a_round_that_nobody_has_joined(served: Serving):
    await plan(goal=2, **FOLD).create(served.admin)
    slow, other = await served.devices(2)
    assignment = await slow.take()
    await other.serve(constant(1.0))
    served.clock.leap(601.0)
    await served.round_ends(1)
    served.clock.leap(3000.0)
    assert (await served.admin.tasks())[0].deadline is None
    before = await served.model()
    await deliver(slow, assignment, 1.0)
    assert (await served.admin.tasks())[0].deadline == pytest.approx(600.0, abs=5.0)
    served.clock.leap(601.0)
    await served.round_ends(2)
    second = (await served.admin.task("digits")).rounds[1]
    assert (second.phase, second.reason, second.updates) == ("closed", "deadline", 1)
    assert moved(await served.model(), before) == pytest.approx(HALF, rel=1e-4)


async def test_what_arrives_while_a_round_closes_waits_for_the_next(served: Serving):
    await plan(goal=1, **FOLD).create(served.admin)
    one, slow = await served.devices(2)
    assignment = await slow.take()
    with denied(served, sqlite3.SQLITE_INSERT, "models") as tried:
        await one.serve(constant(1.0))
        await served.until(lambda: tried)  # it stays in the phase `closing`
        sending = asyncio.create_task(deliver(slow, assignment, 2.0))
        await asyncio.sleep(0.2)
        assert not sending.done()
        assert (await served.admin.tasks())[0].phase == "closing"
    served.clock.leap(2.0)
    await sending
    await served.round_ends(2)
    assert await counted(served, assignment) == (1, 0, 2)
    first, second = (await served.admin.task("digits")).rounds[:2]
    assert (first.updates, second.updates) == (1, 1)
    versions = [await served.model(version=v) for v in range(3)]
    assert moved(versions[1], versions[0]) == pytest.approx(1.0, rel=1e-5)
    assert moved(versions[2], versions[1]) == pytest.approx(2 * HALF, rel=1e-4)


async def test_who_waits_too_long_for_a_round_to_close_is_told_to_come_back(served: Serving):
    await plan(goal=1, **FOLD).create(served.admin)
    one, slow = await served.devices(2)
    assignment = await slow.take()
    with denied(served, sqlite3.SQLITE_INSERT, "models") as tried:
        await one.serve(constant(1.0))
        await served.until(lambda: tried)
        data = slow.write(assignment, constant(2.0))
        async with connected(served) as connection:
            headers = post_headers(slow, data)
            await connection.request("POST", update_path(assignment), headers, data)
            await asyncio.sleep(0.2)
            served.clock.leap(21.0)
            answer = await connection.read()
        assert (answer.status, answer.code) == (503, "closing")
    served.clock.leap(100.0)
    await served.round_ends(1)
    await deliver(slow, assignment, 2.0)
    await served.round_ends(2)
    assert await counted(served, assignment) == (1, 0, 2)


async def test_a_device_is_told_until_when_its_update_may_count(served: Serving):
    await plan(goal=1, **FOLD, max_staleness=2).create(served.admin)
    slow, other = await served.devices(2)
    assignment = await slow.take()
    assert assignment.deadline == pytest.approx(600.0 + 2 * 600.0, abs=5.0)
    await other.serve(constant(1.0))
    await served.round_ends(1)
    served.clock.leap(100.0)
    again = await slow.take()  # it lost the answer: it may go on with what it has
    assert (again.id, again.version, again.model) == (
        *(assignment.id, assignment.version),
        assignment.model,
    )
    assert again.deadline == pytest.approx(assignment.deadline - 100.0, abs=5.0)


async def test_a_late_device_takes_no_place_of_the_next_round(served: Serving):
    await plan(goal=1, **(FOLD | {"over_selection": 2})).create(served.admin)
    slow, one, two, three = await served.devices(4)
    assignment = await slow.take()
    await one.serve(constant(1.0))
    await served.round_ends(1)
    places = served.task().round.places
    assert served.task().round.free == places
    await deliver(slow, assignment, 1.0)  # closes it, though two were at work
    await served.round_ends(2)
    for device in (two, three)[:places]:
        await device.take()


async def test_a_copy_of_a_late_update_counts_once(served: Serving):
    await plan(goal=2, **FOLD).create(served.admin)
    slow, other = await served.devices(2)
    assignment = await slow.take()
    await other.serve(constant(1.0))
    served.clock.leap(601.0)
    await served.round_ends(1)
    before = await served.model()
    for _ in range(3):
        await deliver(slow, assignment, 1.0)
    served.clock.leap(601.0)
    await served.round_ends(2)
    await deliver(slow, assignment, 1.0)  # accepted long ago
    assert (await served.admin.tasks())[0].arrived == 0
    assert moved(await served.model(), before) == pytest.approx(HALF, rel=1e-4)


async def test_who_gave_up_is_late_though_late_updates_are_folded(served: Serving):
    await plan(goal=2, **FOLD).create(served.admin)
    device = await served.device()
    assignment = await device.take()
    await device.give_up(assignment)
    with pytest.raises(Rejected, match="late"):
        await deliver(device, assignment, 1.0)


async def test_a_late_update_counts_after_a_restart(tmp_path):
    async with serving(tmp_path) as served:
        await plan(goal=2, **FOLD).create(served.admin)
        slow, other = await served.devices(2)
        assignment = await slow.take()
        await other.serve(constant(1.0))
        served.clock.leap(601.0)
        await served.round_ends(1)
        before, clock = await served.model(), served.clock
    async with serving(tmp_path, clock) as served:
        slow.url = served.url
        await deliver(slow, assignment, 1.0)
    async with serving(tmp_path, clock) as served:  # now its age is read back from the store
        clock.leap(601.0)
        await served.round_ends(2)
        assert moved(await served.model(), before) == pytest.approx(HALF, rel=1e-4)


async def test_a_late_device_that_leaves_is_out_of_the_next_model(served: Serving):
    await plan(goal=3, **FOLD).create(served.admin)
    slow, one, two = await served.devices(3)
    assignment = await slow.take()
    await one.serve(constant(1.0))
    served.clock.leap(601.0)
    await served.round_ends(1)
    before = await served.model()
    await deliver(slow, assignment, 100.0)
    await two.serve(constant(1.0))
    gone = await served.admin.remove(slow.id)
    assert (gone.dropped, gone.published) == (1, 0)
    served.clock.leap(601.0)
    await served.round_ends(2)
    assert moved(await served.model(), before) == pytest.approx(1.0, rel=1e-4)


# Buffered


BUFFER = {"late": "buffer", "deadline": "10m", "over_selection": 2}


async def test_rounds_do_not_wait_for_devices_and_devices_not_for_rounds(served: Serving):
    await plan(goal=2, **BUFFER).create(served.admin)
    devices = await served.devices(4)
    held = [await d.take() for d in devices]
    assert (await served.admin.tasks())[0].phase == "reporting"
    before = await served.model()
    for at in (0, 1):
        await deliver(devices[at], held[at], 1.0)
    await served.round_ends(1)
    first = await served.model()
    assert moved(first, before) == pytest.approx(1.0, rel=1e-5)
    view = (await served.admin.tasks())[0]
    assert (view.version, view.working, view.arrived) == (1, 2, 0)
    # Those who are done start anew from the newest model; the others go on with the old one.
    fresh = await devices[0].take()
    assert (fresh.version, fresh.round) == (1, 2)
    assert (await devices[2].take()).id == held[2].id
    await deliver(devices[2], held[2], 4.0)
    await deliver(devices[0], fresh, 1.0)
    await served.round_ends(2)
    assert moved(await served.model(), first) == pytest.approx((4 * HALF + 1) / 2, rel=1e-4)
    assert await counted(served, held[2]) == (1, 0, 2)
    assert await counted(served, fresh) == (2, 1, 2)
    assert (await served.admin.tasks())[0].working == 1


async def test_every_goal_arrivals_make_a_model(served: Serving):
    await plan(goal=3, **(BUFFER | {"over_selection": 3}), max_staleness=9).create(served.admin)
    devices = await served.devices(9)
    held = [await d.take() for d in devices]
    for number in range(3):
        for at in range(3 * number, 3 * number + 3):
            await deliver(devices[at], held[at], 1.0)
        await served.round_ends(number + 1)
    detail = await served.admin.task("digits")
    assert [r.updates for r in detail.rounds[:3]] == [3, 3, 3]
    versions = [await served.model(version=v) for v in range(4)]
    moves = [moved(b, a) for a, b in pairwise(versions)]
    assert moves == pytest.approx([1.0, 2**-0.5, 3**-0.5], rel=1e-4)


async def test_one_that_is_too_stale_is_refused_and_its_place_is_free(served: Serving):
    await plan(goal=1, **BUFFER, max_staleness=1).create(served.admin)
    stale, busy = await served.devices(2)
    assignment = await stale.take()
    for number in (1, 2):
        await busy.serve(constant(1.0))
        await served.round_ends(number)
    with pytest.raises(Rejected, match="late"):
        await deliver(stale, assignment, 100.0)
    assert (await served.admin.tasks())[0].working == 0
    assert (await served.states())[stale.id] == "expired"


async def test_silent_devices_do_not_bring_a_task_to_a_halt(served: Serving):
    await plan(goal=2, **(BUFFER | {"over_selection": 1}), max_staleness=1).create(served.admin)
    silent = await served.devices(2)
    for device in silent:
        await device.take()
    (waiting,) = await served.devices(1)
    with pytest.raises(NoWork) as full:
        await waiting.take()
    assert str(full.value) == "round_full"
    for number in (1, 2):
        served.clock.leap(601.0)
        await served.round_ends(number)
    assert (await waiting.take()).version == 0
    assert set((await served.states()).values()) == {"expired"}


async def test_a_place_that_is_given_up_is_another_s_at_once(served: Serving):
    await plan(goal=1, **(BUFFER | {"over_selection": 1})).create(served.admin)
    one, two = await served.devices(2)
    assignment = await one.take()
    with pytest.raises(NoWork):
        await two.take()
    await one.give_up(assignment)
    assert (await two.take()).version == 0
