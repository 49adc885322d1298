"""Whole rounds: a coordinator over real sockets, fake devices, and time that leaps."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from edge_agent.errors import Rejected
from fleet.clients import Device, FlappingDevice, NoWork, SilentDevice
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.serving import START, LeapingClock, Serving, serving
from wire.messages import Evaluation, WaitReason


async def refused_work(device: Device) -> str:
    """Why a device gets no work."""
    with pytest.raises(NoWork) as none:
        await device.take()
    assert none.value.wait is not None
    return str(none.value.wait.reason)


# How a round ends


async def test_the_goal_closes_a_round(served: Serving):
    await plan(goal=2).create(served.admin)
    for device in await served.devices(2):
        await device.serve(constant(1.0))
    await served.round_ends(1)
    detail = await served.admin.task("digits")
    first, second = detail.rounds
    assert (first.phase, first.reason, first.updates) == ("closed", "goal", 2)
    assert (second.phase, second.version) == ("open", 1)
    assert detail.task.version == 1
    assert len(detail.definition) > 0


async def test_the_new_model_is_the_mean_of_the_updates_weighted_by_examples(served: Serving):
    await plan(goal=5, sections="[aggregation]\nkind = 'fedavg'\nmax_examples = 100").create(
        served.admin
    )
    before = await served.model()
    examples = [1, 10, 99, 100, 5000]
    deltas = [weights(seed=k) for k in range(5)]
    for device, delta, count in zip(await served.devices(5), deltas, examples, strict=True):
        await device.serve(delta, count)
    await served.round_ends(1)
    after = await served.model()
    shares = np.minimum(examples, 100).astype(np.float64)
    for name, start in before.items():
        mean = sum(s * d[name].astype(np.float64) for s, d in zip(shares, deltas, strict=True))
        expected = start + mean / shares.sum()
        # Each update is rounded to float32 once, as it enters the sum, and so is the result.
        np.testing.assert_allclose(after[name], expected, rtol=2**-24, atol=2**-26)


async def test_the_deadline_closes_a_round_with_what_has_arrived(served: Serving):
    await plan(goal=3, minimum=1, deadline="10m").create(served.admin)
    before = await served.model()
    one, silent = await served.device(), await served.device(SilentDevice)
    await one.serve(constant(2.0))
    await silent.serve(constant(9.0))
    served.clock.leap(599.0)
    assert served.task().round.number == 1
    served.clock.leap(2.0)
    await served.round_ends(1)
    first = (await served.admin.task("digits")).rounds[0]
    assert (first.phase, first.reason, first.updates) == ("closed", "deadline", 1)
    assert await served.states() == {one.id: "accepted", silent.id: "expired"}
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 2.0, rtol=1e-6)


async def test_too_few_updates_leave_the_model_as_it_was(served: Serving):
    await plan(goal=3, minimum=2, deadline="10m").create(served.admin)
    (device,) = await served.devices(1)
    await device.serve(constant(2.0))
    served.clock.leap(601.0)
    await served.round_ends(1)
    detail = await served.admin.task("digits")
    first, second = detail.rounds
    assert (first.phase, first.reason, first.updates) == ("abandoned", "too_few", 1)
    assert (detail.task.version, second.version) == (0, 0)
    assert await served.count('lamplighter_rounds_total{reason="too_few",task="digits"}') == 1
    await served.until_swept()


async def test_a_round_nobody_joined_has_no_deadline(served: Serving):
    await plan(goal=1, deadline="10m").create(served.admin)
    served.clock.leap(5 * 86400.0)
    await asyncio.sleep(0.02)
    view = (await served.admin.tasks())[0]
    assert (view.round, view.phase, view.deadline) == (1, "selecting", None)
    (device,) = await served.devices(1)
    assert (await device.take()).deadline == pytest.approx(600.0, abs=5.0)


async def test_arrivals_do_not_move_the_deadline(served: Serving):
    await plan(goal=9, deadline="10m").create(served.admin)
    for device in await served.devices(3):
        await device.serve(constant(1.0))
        served.clock.leap(150.0)
    left = (await served.admin.tasks())[0].deadline
    assert left == pytest.approx(150.0, abs=5.0)


async def test_a_mean_out_of_range_leaves_the_model_as_it_was(served: Serving):
    leaps = "[aggregation]\nkind = 'fedavgm'\nlearning_rate = 1e30"
    await plan(goal=1, sections=leaps).create(served.admin)
    (device,) = await served.devices(1)
    await device.serve(constant(1e10))
    await served.round_ends(1)
    first = (await served.admin.task("digits")).rounds[0]
    assert (first.phase, first.reason) == ("abandoned", "not_finite")
    assert served.task().model.version == 0


async def test_a_task_is_done_after_its_rounds(tmp_path: Path):
    async with serving(tmp_path) as served:
        await plan(goal=1, rounds=2).create(served.admin)
        for _ in range(2):
            device = await served.device()
            await device.serve(constant(1.0))
            await served.until(lambda: served.task().model.version)
        await served.round_ends(2)
        assert (await served.admin.tasks())[0].state == "done"
        assert await refused_work(device) == "task_done"
    async with serving(tmp_path) as served:  # and starts again, its updates long swept
        view = (await served.admin.tasks())[0]
        assert (view.state, view.version, view.phase) == ("done", 2, "closed")
        device.url = served.url
        reply = await device.check_in()
        assert reply.published[0].version == 2


async def test_a_task_that_is_stopped_ends_at_once_and_keeps_its_models(tmp_path: Path):
    async with serving(tmp_path) as served:
        await plan(goal=1, over_selection=3).create(served.admin)
        working, other = await served.devices(2)
        await other.serve(constant(1.0))
        await served.round_ends(1)
        assignment = await working.take()
        stopped = await served.admin.stop("digits")
        assert (stopped.state, stopped.version) == ("stopped", 1)
        assert (await served.admin.stop("digits")).state == "stopped"
        with pytest.raises(Rejected, match="late"):
            await working.deliver(assignment, working.write(assignment, constant(1.0)))
        assert await refused_work(working) == "no_task"
    async with serving(tmp_path) as served:
        assert (await served.admin.tasks())[0].state == "stopped"
        assert (await served.admin.task("digits")).rounds[-1].reason == "stopped"
        assert (await served.model())["w"].shape == (4, 3)


# Who gets a place


async def test_over_selection_bounds_the_places(served: Serving):
    await plan(goal=2, over_selection=1.5).create(served.admin)
    devices = await served.devices(5)
    replies = await asyncio.gather(*(d.check_in() for d in devices))
    assert sum(r.assignment is not None for r in replies) == 3
    assert {str(r.wait.reason) for r in replies if r.wait} == {"round_full"}
    assert (await served.admin.tasks())[0].phase == "reporting"


async def test_giving_up_frees_a_place_for_somebody_else(served: Serving):
    await plan(goal=1, over_selection=1).create(served.admin)
    first, second = await served.devices(2)
    assignment = await first.take()
    assert await refused_work(second) == "round_full"
    await first.give_up(assignment, "on_battery")
    assert await refused_work(first) == "already_served"
    await second.serve(constant(1.0))
    found = {a.device: a for a in (await served.admin.round("digits", 1)).assignments}
    assert (found[first.id].state, found[first.id].reason) == ("given_up", "on_battery")


async def test_flapping_devices_do_not_stop_a_round(served: Serving):
    await plan(goal=2, over_selection=1).create(served.admin)
    for _ in range(4):
        await (await served.device(FlappingDevice, gives_up=True)).serve(constant(1.0))
    for _ in range(2):
        await (await served.device(FlappingDevice, drops=2)).serve(constant(1.0))
    await served.round_ends(1)
    states = sorted((await served.states()).values())
    assert states == ["accepted"] * 2 + ["given_up"] * 4


async def test_a_device_that_checks_in_again_gets_the_same_assignment(served: Serving):
    await plan(goal=2).create(served.admin)
    (device,) = await served.devices(1)
    first = await device.take()
    served.clock.leap(100.0)
    again = await device.take()
    assert (again.id, again.seed) == (first.id, first.seed)
    assert again.deadline == pytest.approx(first.deadline - 100.0, abs=5.0)
    assert (await served.admin.tasks())[0].working == 1


async def test_a_device_serves_once_a_round(served: Serving):
    await plan(goal=2).create(served.admin)
    device, other = await served.devices(2)
    await device.serve(constant(1.0))
    assert await refused_work(device) == "already_served"
    await other.serve(constant(1.0))
    await served.round_ends(1)
    assert (await device.take()).version == 1


async def test_a_closed_window_gives_no_work_but_when_to_come_back(tmp_path: Path):
    night = """[schedule]
round_deadline = "1h"
check_in = "5m"
windows = [{ start = "22:00", end = "06:00", zone = "UTC" }]"""
    clock = LeapingClock()
    async with serving(tmp_path, clock) as served:
        await plan(goal=2, sections=night).create(served.admin)
        device = await served.device()
        reply = await device.check_in()
        assert reply.wait is not None
        assert reply.wait.reason is WaitReason.WINDOW_CLOSED
        assert 10 * 3600 - 5 < reply.wait.after < reply.wait.before < 10 * 3600 + 301
        clock.leap(reply.wait.after + 1.0)
        assert (clock.now() - START).total_seconds() > 36000
        held = await device.take()
        clock.leap(8 * 3600.0 - 1800.0)
        assert (await device.check_in()).wait is not None or held


async def test_a_task_is_for_devices_that_carry_its_labels(served: Serving):
    labels = "[participants]\nlabels = { site = 'north' }"
    await plan(name="north", goal=1, sections=labels).create(served.admin)
    south = await served.device(labels={"site": "south"})
    north = await served.device(labels={"site": "north", "rack": "7"})
    assert await refused_work(south) == "no_task"
    assert (await south.check_in()).published == ()
    assert (await north.take()).task == "north"


async def test_a_device_serves_one_task_at_a_time_and_may_choose_among_them(served: Serving):
    for name in ("alpha", "beta"):
        await plan(name=name, goal=1).create(served.admin)
    first, second = await served.devices(2)
    assert (await first.take()).task == "alpha"
    assert (await first.take()).task == "alpha"
    chosen = await second.check_in(tasks=("beta", "unheard-of"))
    assert chosen.assignment is not None
    assert chosen.assignment.task == "beta"
    assert [p.task for p in chosen.published] == ["beta"]
    none = await second.check_in(tasks=())
    assert none.wait is not None
    assert none.wait.reason is WaitReason.NO_TASK
    await first.serve(constant(1.0))
    await served.round_ends(1, "alpha")
    assert served.task("beta").round.number == 1


# Restarts and trouble


async def test_the_deadline_goes_on_over_a_restart(tmp_path: Path):
    clock = LeapingClock()
    async with serving(tmp_path, clock) as served:
        await plan(goal=2, deadline="10m").create(served.admin)
        device = await served.device()
        await device.take()
    clock.leap(400.0)
    async with serving(tmp_path, clock) as served:
        device.url = served.url
        assert (await device.take()).deadline == pytest.approx(200.0, abs=5.0)
    clock.leap(400.0)
    async with serving(tmp_path, clock) as served:
        await served.round_ends(1)
        assert await served.states() == {device.id: "expired"}


async def test_an_update_that_the_disk_lost_is_counted_out_loud(tmp_path: Path, caplog):
    async with serving(tmp_path) as served:
        await plan(goal=2, over_selection=2).create(served.admin)
        before = await served.model()
        lost, kept = await served.devices(2)
        await lost.serve(constant(5.0))
    await asyncio.to_thread(damage, tmp_path)
    async with serving(tmp_path) as served:
        kept.url = served.url
        await kept.serve(constant(1.0))
        await served.round_ends(1)
        found = {a.device: a for a in (await served.admin.round("digits", 1)).assignments}
        assert (found[lost.id].state, found[lost.id].reason) == ("refused", "lost")
        assert "is lost" in caplog.text
        (first, _) = (await served.admin.task("digits")).rounds
        assert (first.phase, first.updates, first.examples) == ("closed", 1, 10)
        np.testing.assert_allclose((await served.model())["w"], before["w"] + 1.0, rtol=1e-6)


def damage(state: Path) -> None:
    """A disk that returns other bytes than were written to it, of every update that it keeps."""
    for segment in (state / "spool").glob("*.log"):
        segment.write_bytes(bytes(segment.stat().st_size))


async def test_a_disk_that_fails_at_the_rounds_end_is_tried_again(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    await plan(goal=1).create(served.admin)
    blobs = served.coordinator.services.blobs
    put, failures = blobs.put, []

    async def broken(data: bytes) -> str:
        if len(failures) < 3:
            failures.append(1)
            raise OSError(28, "No space left on device")
        return await put(data)

    monkeypatch.setattr(blobs, "put", broken)
    (device,) = await served.devices(1)
    await device.serve(constant(1.0))
    for expected in (1, 2, 3):
        await served.until(lambda n=expected: len(failures) == n)
        await asyncio.sleep(0.01)
        served.clock.leap(61.0)
    await served.round_ends(1)
    assert (await served.admin.tasks())[0].version == 1


async def test_a_base_model_that_is_damaged_stops_no_other_task(served: Serving):
    for name in ("alpha", "beta"):
        await plan(name=name, goal=1, initial=weights(seed=len(name))).create(served.admin)
    services = served.coordinator.services
    path = await services.blobs.source(served.task("alpha").model.digest)
    data = await asyncio.to_thread(path.read_bytes)
    await asyncio.to_thread(path.write_bytes, b"rubbish")
    first, second = await served.devices(2)
    await first.serve(constant(1.0))
    await asyncio.sleep(0.02)
    assert (await second.check_in(tasks=("beta",))).assignment is not None
    await second.serve(constant(1.0))
    await served.round_ends(1, "beta")
    view = next(t for t in await served.admin.tasks() if t.name == "alpha")
    assert (view.round, view.phase, view.arrived) == (1, "closing", 1)
    await asyncio.to_thread(path.write_bytes, data)  # brought back, what was acknowledged counts
    for _ in range(3):
        served.clock.leap(61.0)
        await asyncio.sleep(0.01)
    await served.round_ends(1, "alpha")
    assert served.task("alpha").model.version == 1


async def test_a_task_whose_round_cannot_be_closed_can_be_stopped(
    served: Serving, caplog: pytest.LogCaptureFixture
):
    await plan(goal=1).create(served.admin)
    path = await served.coordinator.services.blobs.source(served.task().model.digest)
    await asyncio.to_thread(path.write_bytes, b"rubbish")
    (device,) = await served.devices(1)
    await device.serve(constant(1.0))
    await served.until(lambda: "could not be closed here" in caplog.text)
    stopping = asyncio.ensure_future(served.admin.stop("digits"))
    await asyncio.sleep(0.1)
    assert not stopping.done(), "it may close yet"
    served.clock.leap(11.0)
    assert (await stopping).state == "stopped"
    (round_,) = (await served.admin.task("digits")).rounds
    assert (round_.phase, round_.reason, round_.updates) == ("abandoned", "stopped", 1)
    assert "stopped though round 1 could not be closed (bad_digest" in caplog.text
    assert "its 1 accepted updates are in no model" in caplog.text
    assert await served.states() == {device.id: "accepted"}
    assert served.task().model.version == 0


# Evaluations


async def test_evaluations_are_averaged_by_examples(served: Serving):
    await plan(goal=1).create(served.admin)
    one, two = await served.devices(2)
    for device, examples, loss, accuracy in ((one, 10, 2.0, 0.5), (two, 30, 1.0, 0.9)):
        said = Evaluation(
            task="digits",
            version=0,
            examples=examples,
            metrics={"loss": loss, "accuracy": accuracy},
        )
        await device.check_in(evaluations=(said, said))
    loss, accuracy = (await served.admin.tasks())[0].metrics[0]
    assert (loss.name, loss.mean, loss.worst, loss.devices) == ("loss", 1.25, 2.0, 2)
    assert (accuracy.mean, accuracy.worst) == (pytest.approx(0.8), 0.5)


@pytest.mark.parametrize(
    "said",
    [
        Evaluation(task="digits", version=1, examples=1, metrics={"loss": 1.0, "accuracy": 1.0}),
        Evaluation(task="other", version=0, examples=1, metrics={"loss": 1.0, "accuracy": 1.0}),
        Evaluation(task="digits", version=0, examples=1, metrics={"loss": 1.0}),
        Evaluation(
            task="digits", version=0, examples=1 << 53, metrics={"loss": 1e308, "accuracy": -1e308}
        ),
    ],
    ids=["version to come", "unknown task", "metrics missing", "absurd"],
)
async def test_an_evaluation_that_cannot_be_is_passed_over(served: Serving, said: Evaluation):
    await plan(goal=1).create(served.admin)
    for device in await served.devices(2):
        await device.check_in(evaluations=(said,))
    assert (await served.admin.tasks())[0].metrics == {}


async def test_no_task_starves_another(served: Serving):
    for name in ("alpha", "beta"):
        await plan(name, goal=1).create(served.admin)
    (device,) = await served.devices(1)
    for turn in range(1, 5):
        await device.serve(constant(0.1))
        await served.until(
            lambda turn=turn: sum(served.task(n).model.version for n in ("alpha", "beta")) == turn
        )
    assert [t.version for t in await served.admin.tasks()] == [2, 2]
