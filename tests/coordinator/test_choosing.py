"""Who gets a place, over real HTTP: over-selection that adapts, rest for who keeps failing, a draw
among many, and two tasks on one fleet."""

import asyncio

import pytest

from coordinator import crowds
from coordinator.selection.choice import EVERYBODY
from coordinator.selection.standing import FORGIVEN, RESTING
from coordinator.store.records import DeviceRecord, StandingRecord
from coordinator.store.sql import Steps, insert
from edge_agent.errors import Rejected
from fleet.clients import FACTS, Device, NoWork, SilentDevice
from tests.coordinator.plans import constant, plan
from tests.coordinator.serving import Serving, serving
from wire.messages import Wait

MANY = 5000


async def no_work(device: Device) -> Wait:
    """Why a device gets no work, and when it should come back."""
    with pytest.raises(NoWork) as none:
        await device.take()
    assert none.value.wait is not None
    return none.value.wait


async def everybody(served: Serving, name: str = "digits") -> None:
    """So much time passes that whoever comes is admitted."""
    task = served.task(name)
    served.clock.leap(EVERYBODY * float(task.timing.check_in) + 1.0)
    await asyncio.sleep(0.01)


# Over-selection


async def play(served: Serving, number: int, silent: int) -> int:
    """Round `number`: its places are filled, `silent` of its devices are never heard of again.
    Returns how many places it had."""
    await everybody(served)
    places = served.task().round.places
    quiet = [await served.device(SilentDevice) for _ in range(min(silent, places))]
    honest = [await served.device() for _ in range(places - len(quiet))]
    for device in quiet:
        await device.serve(constant(1.0))
    held = []
    for device in honest:
        served.clock.leap(1.0)  # who began later has had less time
        held.append((device, await device.take()))
    for device, assignment in held:
        try:
            await device.deliver(assignment, device.write(assignment, constant(1.0)))
        except Rejected as error:
            if error.code != "late":  # the goal was reached
                raise
    if served.task().round.number == number:
        served.clock.leap(601.0)
    await served.round_ends(number)
    return places


async def test_it_asks_more_devices_when_many_never_answer(served: Serving):
    await plan(goal=8, over_selection=1.0, deadline="10m").create(served.admin)
    asked = [await play(served, number, silent=5) for number in range(1, 8)]
    assert asked[0] == 8
    assert asked == sorted(asked)
    assert asked[-1] >= 11
    ended = (await served.admin.task("digits")).rounds
    assert [r.places for r in ended[:7]] == asked
    assert ended[0].updates == 3
    assert ended[6].updates >= 6
    assert [r.dropped for r in ended[:7]] == [5] * 7


async def test_it_asks_fewer_when_all_answer(served: Serving):
    await plan(goal=4, over_selection=2.0, deadline="10m").create(served.admin)
    asked = [await play(served, number, silent=0) for number in range(1, 9)]
    assert asked[0] == 8
    assert asked == sorted(asked, reverse=True)
    assert 4 <= asked[-1] < 8
    assert [r.dropped for r in (await served.admin.task("digits")).rounds[:8]] == [0] * 8


async def test_it_never_asks_more_than_the_task_allows(served: Serving):
    limits = {"over_selection": 1.5, "over_selection_limit": 2.0}
    await plan(goal=2, **limits, deadline="10m").create(served.admin)
    asked = [await play(served, number, silent=9) for number in range(1, 7)]
    assert asked[0] == 3
    assert asked[-1] == 4


async def test_places_follow_the_rounds_also_over_a_restart(tmp_path):
    async with serving(tmp_path) as served:
        await plan(goal=4, over_selection=1.0, deadline="10m").create(served.admin)
        for number in range(1, 4):
            await play(served, number, silent=4)
        places, clock = served.task().round.places, served.clock
        assert places > 4
    async with serving(tmp_path, clock) as served:
        assert served.task().round.places == places


# Rest


async def test_a_device_that_keeps_failing_rests_and_one_success_ends_that(served: Serving):
    await plan(goal=1, over_selection=2).create(served.admin)
    failing = await served.device()
    number = 1
    for _ in range(FORGIVEN + 1):
        await everybody(served)
        await failing.give_up(await failing.take())
        await (await served.device()).serve(constant(1.0))
        await served.round_ends(number)
        number += 1
    await everybody(served)
    wait = await no_work(failing)
    assert str(wait.reason) == "resting"
    first = RESTING.delay(1, 1.0)
    assert first / 2 < wait.after <= first
    served.clock.leap(wait.after + 1.0)
    await failing.give_up(await failing.take())  # again: it rests for longer
    await (await served.device()).serve(constant(1.0))
    await served.round_ends(number)
    wait = await no_work(failing)
    assert str(wait.reason) == "resting"
    assert wait.after > 1.5 * first
    served.clock.leap(wait.after + 1.0)
    await failing.serve(constant(1.0))
    await served.round_ends(number + 1)
    await everybody(served)
    assert (await failing.take()).version == number + 1


async def test_who_is_refused_again_and_again_rests(served: Serving):
    await plan(goal=1, over_selection=2).create(served.admin)
    liar = await served.device()
    for number in range(1, FORGIVEN + 2):
        await everybody(served)
        assignment = await liar.take()
        with pytest.raises(Exception, match="bad_compression"):
            await liar.deliver(assignment, b"nonsense")
        await (await served.device()).serve(constant(1.0))
        await served.round_ends(number)
    await everybody(served)
    assert str((await no_work(liar)).reason) == "resting"


async def test_who_was_only_too_late_to_be_needed_does_not_rest(served: Serving):
    await plan(goal=1, over_selection=3).create(served.admin)
    slow = await served.device()
    for number in range(1, FORGIVEN + 4):
        await everybody(served)
        quick = await served.device()
        assignment = await quick.take()
        served.clock.leap(5.0)
        await slow.take()
        await quick.deliver(assignment, quick.write(assignment, constant(1.0)))
        await served.round_ends(number)
    await everybody(served)
    assert (await slow.take()).version == FORGIVEN + 3


async def test_rest_outlasts_a_restart(tmp_path):
    async with serving(tmp_path) as served:
        await plan(goal=1, over_selection=2).create(served.admin)
        failing = await served.device()
        for number in range(1, FORGIVEN + 2):
            await everybody(served)
            await failing.give_up(await failing.take())
            await (await served.device()).serve(constant(1.0))
            await served.round_ends(number)
        clock = served.clock
    async with serving(tmp_path, clock) as served:
        failing.url = served.url
        assert str((await no_work(failing)).reason) == "resting"


async def test_a_small_fleet_does_not_wait_for_those_at_rest(served: Serving):
    await plan(goal=1, over_selection=1, over_selection_limit=1).create(served.admin)
    device, store = await served.device(), served.coordinator.services.store

    def resting() -> Steps[None]:
        yield from crowd(30, store.now())
        for at in range(30):
            standing = StandingRecord(
                device=f"crowd-{at}",
                task="digits",
                round=0,
                failed=FORGIVEN + 1,
                streak=FORGIVEN + 1,
                failed_at=store.now(),
            )
            yield from insert("standings", standing)

    await store.run(resting)
    await served.coordinator.devices.flush()
    await crowds.look(store, served.task())
    assert served.task().crowd.population == 1
    assert (await device.take()).round == 1


# A draw among many


def crowd(number: int, seen: float) -> Steps[None]:
    """So many devices that have checked in once, at that moment."""
    for at in range(number):
        device = DeviceRecord(
            id=f"crowd-{at}",
            name="crowd",
            secret="hash",
            labels={},
            facts=FACTS,
            enrolled=1.0,
            seen=seen,
        )
        yield from insert("devices", device)


async def test_of_many_few_are_chosen_at_first_and_whoever_comes_in_the_end(served: Serving):
    await plan(goal=1, over_selection=1).create(served.admin)
    device = await served.device()
    store = served.coordinator.services.store
    await store.run(crowd, MANY, store.now())
    served.clock.leap(31.0)
    await served.until(lambda: served.task().crowd.population > MANY)
    for _ in range(3):  # however often it asks
        wait = await no_work(device)
        assert str(wait.reason) == "not_selected"
        assert 0 <= wait.after < wait.before
    served.clock.leap(max(EVERYBODY * 60.0, EVERYBODY * 2 * MANY / 100.0) + 1.0)
    assert (await device.take()).round == 1


# Two tasks


async def test_two_tasks_on_one_fleet_take_turns(served: Serving):
    for name in ("alpha", "beta"):
        await plan(name, goal=2, over_selection=1, over_selection_limit=1).create(served.admin)
    devices = await served.devices(4)
    for turn in range(1, 5):
        held = [(device, await device.take()) for device in devices]
        # A device serves one task at a time, and both tasks have their places filled.
        assert sorted(a.task for _, a in held) == ["alpha"] * 2 + ["beta"] * 2
        for device, assignment in held:
            assert (await device.take()).id == assignment.id
        for device, assignment in held:
            await device.deliver(assignment, device.write(assignment, constant(1.0)))
        for name in ("alpha", "beta"):
            await served.round_ends(turn, name)
        await everybody(served, "alpha")
    assert [t.version for t in await served.admin.tasks()] == [4, 4]


async def test_a_small_fleet_serves_two_tasks_evenly(served: Serving):
    for name in ("alpha", "beta"):
        await plan(name, goal=1, over_selection=1, over_selection_limit=1).create(served.admin)
    device = await served.device()
    served_tasks = []
    for _ in range(8):
        assignment = await device.take()
        served_tasks.append(assignment.task)
        await device.deliver(assignment, device.write(assignment, constant(1.0)))
        await served.round_ends(assignment.round, assignment.task)
        await everybody(served, "alpha")
    assert served_tasks.count("alpha") == served_tasks.count("beta") == 4
    assert served_tasks[::2] == [served_tasks[0]] * 4  # in turn


async def test_a_device_that_wants_another_task_gives_up_what_it_held(served: Serving):
    for name in ("alpha", "beta"):
        await plan(name, goal=1, over_selection=1).create(served.admin)
    device, other = await served.devices(2)
    held = await device.take()
    assert held.task == "alpha"
    reply = await device.check_in(tasks=("beta",))
    assert reply.assignment is not None
    assert reply.assignment.task == "beta"
    found = {a.device: a for a in (await served.admin.round("alpha", 1)).assignments}
    assert (found[device.id].state, found[device.id].reason) == ("given_up", "not_wanted")
    assert (await other.take()).task == "alpha"


@pytest.mark.parametrize("kind", ["fedavg", "median"])
async def test_a_boast_of_one_does_not_take_the_others_chances(served: Serving, kind: str):
    sections = f"[selection]\nkind = 'data'\n[aggregation]\nkind = '{kind}'"
    await plan(goal=5, sections=sections).create(served.admin)
    for number, device in enumerate(await served.devices(5)):
        await device.serve(constant(0.1), examples=10 if number else 1 << 31)
    await crowds.look(served.coordinator.services.store, served.task())
    mean = served.task().crowd.examples
    assert mean is not None
    assert 10 <= mean <= 30
