"""The journal through the admin API: who was selected, who came when, who did not and why."""

from typing import Any

import msgspec
import pytest

from coordinator import gauges
from coordinator.cli.rounds import outcome
from coordinator.client import InputError
from coordinator.store import evaluations, journal
from coordinator.store.records import EvaluationRecord
from coordinator.store.sql import StoreUnavailable
from coordinator.views import AssignmentView, RoundView
from edge_agent.errors import Rejected
from fleet.clients import Device, Lie, LyingDevice
from tests.coordinator.plans import constant, plan
from tests.coordinator.raw import ask
from tests.coordinator.serving import Serving
from wire.messages import Assignment, Evaluation


async def one_of_each(served: Serving) -> dict[str, tuple[Device, Assignment]]:
    """Round 1 of a task, past its deadline, with one device of each fate."""
    await plan(goal=3, minimum=1, deadline="1h", over_selection=2.0).create(served.admin)
    found: dict[str, tuple[Device, Assignment]] = {}
    for fate in ("accepted", "given_up", "silent", "back", "late"):
        device = await served.device()
        found[fate] = device, await device.take()
    liar = await served.device(LyingDevice, lie=Lie.NOT_FINITE)
    with pytest.raises(Rejected):
        await liar.serve(constant(1.0))
    found["refused"] = liar, found["late"][1]
    served.clock.leap(3000)
    device, taken = found["accepted"]
    await device.deliver(taken, device.write(taken, constant(1.0)))
    device, taken = found["given_up"]
    await device.give_up(taken, "no_examples")
    served.clock.leap(601)
    await served.round_ends(1)
    served.clock.leap(60)
    device, taken = found["late"]
    with pytest.raises(Rejected, match="late"):
        await device.deliver(taken, device.write(taken, constant(1.0)))
    served.clock.leap(7200)
    await found["back"][0].check_in()
    return found


def by_device(view: RoundView) -> dict[str, AssignmentView]:
    return {a.device: a for a in view.assignments}


async def test_a_round_says_who_came_when_and_who_did_not(served: Serving):
    devices = await one_of_each(served)
    view = await served.admin.round("digits", 1)
    assert (view.round.phase, view.round.reason) == ("closed", "deadline")
    assert (view.round.selected, view.round.updates) == (6, 1)
    assert view.round.elapsed == pytest.approx(3600, abs=5)
    at = by_device(view)
    said = {fate: outcome(at[device.id], view.round) for fate, (device, _) in devices.items()}
    assert said["accepted"] == "counts"
    assert said["given_up"].startswith("gave up: no_examples")
    assert said["silent"] == "never seen since"
    assert said["late"] == "refused: late"
    assert said["refused"].startswith("refused: not_finite")
    assert said["back"].startswith("seen again 3 h")

    def came(fate: str) -> AssignmentView:
        return at[devices[fate][0].id]

    assert came("accepted").lateness == pytest.approx(-600, abs=5)
    assert came("late").lateness == pytest.approx(61, abs=5)
    assert came("silent").lateness is None
    assert came("given_up").lateness is None
    assert all(0 <= a.assigned < 10 for a in view.assignments)
    counts = {(o.state, o.reason): o.assignments for o in view.outcomes}
    assert counts == {
        ("accepted", None): 1,
        ("expired", None): 3,
        ("given_up", "no_examples"): 1,
        ("refused", "not_finite"): 1,
    }


async def test_a_late_update_is_counted_once_however_often_it_is_tried(served: Serving):
    devices = await one_of_each(served)
    device, taken = devices["late"]
    for _ in range(2):
        with pytest.raises(Rejected, match="late"):
            await device.deliver(taken, device.write(taken, constant(1.0)))
    assert await served.count('lamplighter_updates_total{outcome="late",task="digits"}') == 1
    bucket = 'lamplighter_lateness_seconds_bucket{le="%s",task="digits"}'
    assert await served.count(bucket % "0.0") == 1  # in time
    assert await served.count(bucket % "60.0") == 1
    assert await served.count(bucket % "300.0") == 2
    view = await served.admin.round("digits", 1)
    assert by_device(view)[device.id].lateness == pytest.approx(61, abs=5)


async def test_an_update_after_a_full_round_came_after_its_close(served: Serving):
    await plan(goal=1, deadline="1h", over_selection=2.0).create(served.admin)
    first, second = await served.devices(2)
    held = await second.take()
    await first.serve(constant(1.0))
    await served.round_ends(1)
    with pytest.raises(Rejected, match="late"):
        await second.deliver(held, second.write(held, constant(1.0)))
    view = await served.admin.round("digits", 1)
    late = by_device(view)[second.id]
    assert late.lateness is not None
    assert late.lateness < 0
    assert outcome(late, view.round) == "refused: late, the round had closed before"


async def test_an_update_that_counts_in_a_later_round_is_in_both(served: Serving):
    await plan(goal=1, deadline="1h", over_selection=2.0, late="fold").create(served.admin)
    first, second = await served.devices(2)
    held = await second.take()
    await first.serve(constant(1.0))
    await served.round_ends(1)
    await second.deliver(held, second.write(held, constant(1.0)))
    await served.round_ends(2)
    given = await served.admin.round("digits", 1)
    counted = await served.admin.round("digits", 2)
    assert outcome(by_device(given)[second.id], given.round) == "counts in round 2"
    folded = by_device(counted)[second.id]
    assert outcome(folded, counted.round) == "counts"
    assert (folded.round, folded.staleness) == (1, 1)


async def test_a_round_is_read_in_pages(served: Serving):
    await plan(goal=7, deadline="1h").create(served.admin)
    devices = await served.devices(7)
    for device in devices:
        await device.take()
    found: list[str] = []
    after: str | None = ""
    pages = 0
    while after is not None:
        view = await served.admin.round("digits", 1, after, limit=3)
        assert len(view.assignments) <= 3
        found += [a.device for a in view.assignments]
        after = view.after
        pages += 1
    assert found == [d.id for d in devices]
    assert pages == 3


@pytest.mark.parametrize("query", ["limit=0", "limit=5001", "limit=x", "limit=-1", "limit=%D9%A3"])
async def test_a_page_has_a_bound(served: Serving, query: str):
    await plan().create(served.admin)
    for path in ("tasks/digits/rounds/1", "devices"):
        answer = await ask(served, "GET", f"/v1/admin/{path}?{query}", credential=served.token)
        assert answer.status == 422
        assert "5000" in answer.problem.detail


async def test_rounds_are_listed_oldest_first(served: Serving):
    await plan(goal=1, deadline="1h").create(served.admin)
    for number in (1, 2, 3):
        device = await served.device()
        await device.serve(constant(1.0))
        await served.round_ends(number)
    rounds = await served.admin.rounds("digits", 2)
    assert [(r.number, r.phase, r.selected) for r in rounds] == [(3, "closed", 1), (4, "open", 0)]
    assert rounds[0].deadline == 3600
    assert rounds[1].elapsed is None
    with pytest.raises(InputError, match="no task"):
        await served.admin.rounds("other")
    with pytest.raises(InputError, match="from 1 to 1000"):
        await served.admin.rounds("digits", 0)


# Devices that rest


async def test_a_device_that_keeps_failing_is_shown_to_rest(served: Serving):
    await plan(goal=1, deadline="1h", over_selection=3.0).create(served.admin)
    good, bad = await served.devices(2)
    for number in (1, 2, 3):
        await bad.give_up(await bad.take(), "broken")
        await good.serve(constant(1.0))
        await served.round_ends(number)
    page = await served.admin.device_page(resting=True)
    assert [d.id for d in page.devices] == [bad.id]
    (standing,) = page.devices[0].standings
    assert (standing.task, standing.streak) == ("digits", 3)
    assert standing.rests == pytest.approx(600, abs=5)
    everyone = {d.id: d.standings for d in await served.admin.devices()}
    assert everyone[good.id] == []
    view = await served.admin.round("digits", 3)
    assert by_device(view)[bad.id].rests == pytest.approx(600, abs=5)
    served.clock.leap(700)
    assert (await served.admin.device_page(resting=True)).devices == []
    (standing,) = {d.id: d.standings for d in await served.admin.devices()}[bad.id]
    assert (standing.streak, standing.rests) == (3, None)


async def test_devices_are_read_in_pages(served: Serving):
    known = sorted(d.id for d in await served.devices(5))
    first = await served.admin.device_page(limit=3)
    rest = await served.admin.device_page(str(first.after), limit=3)
    assert [d.id for d in first.devices + rest.devices] == known
    assert rest.after is None
    assert first.population == 5


# Tasks


async def test_a_task_says_what_its_aggregation_needs(served: Serving):
    await plan().create(served.admin)
    median = '[aggregation]\nkind = "median"'
    await plan("robust", median, goal=40).create(served.admin)
    streams, robust = await served.admin.tasks()
    assert streams.needs is None
    assert robust.needs
    assert robust.needs == served.task("robust").aggregator.needs(40)
    assert robust.deadline is None


# Evaluations


async def test_metrics_are_aggregated_by_the_store(served: Serving):
    await plan().create(served.admin)
    store = served.coordinator.services.store
    devices = await served.devices(3)
    values = [(0.5, 10), (1.0, 30), (0.0, 10)]
    for device, (value, examples) in zip(devices, values, strict=True):
        first = EvaluationRecord(
            task="digits", version=0, device=device.id, examples=1, metrics={"loss": 9.0}
        )
        last = msgspec.structs.replace(
            first, examples=examples, metrics={"loss": value, "accuracy": value}
        )
        await store.run(evaluations.add, [first, last])
    view = (await served.admin.task("digits")).task
    loss, accuracy = view.metrics[0]
    assert (loss.name, loss.mean, loss.worst) == ("loss", 0.7, 1.0)
    assert (accuracy.name, accuracy.mean, accuracy.worst) == ("accuracy", 0.7, 0.0)
    assert (loss.devices, loss.examples) == (3, 50)


async def test_what_devices_say_of_the_newest_model_is_a_gauge(served: Serving):
    await plan().create(served.admin)
    device = await served.device()
    said = Evaluation(task="digits", version=0, examples=5, metrics={"loss": 2.0, "accuracy": 0.25})
    await device.check_in(evaluations=(said,))
    await gauges.look_at_evaluations(served.coordinator)
    gauge = 'lamplighter_evaluation{metric="accuracy",task="digits"}'
    assert await served.count(gauge) == 0.25


# Who leaves


async def test_who_has_left_is_in_no_journal(served: Serving):
    await plan(goal=2, deadline="1h").create(served.admin)
    stays, leaves = await served.devices(2)
    await stays.take()
    await leaves.take()
    await served.admin.remove(leaves.id)
    view = await served.admin.round("digits", 1)
    assert [a.device for a in view.assignments] == [stays.id]
    assert view.round.selected == 1


async def test_a_late_update_is_told_though_it_cannot_be_noted(
    served: Serving, monkeypatch: pytest.MonkeyPatch
):
    await plan(goal=1, deadline="1h", over_selection=2.0).create(served.admin)
    first, second = await served.devices(2)
    held = await second.take()
    await first.serve(constant(1.0))
    await served.round_ends(1)
    store = served.coordinator.services.store
    run = store.run

    async def full(transaction: Any, *args: Any, **kwargs: Any) -> Any:
        if transaction is journal.came_late:
            raise StoreUnavailable("the disk is full")
        return await run(transaction, *args, **kwargs)

    monkeypatch.setattr(store, "run", full)
    with pytest.raises(Rejected, match="late"):
        await second.deliver(held, second.write(held, constant(1.0)))
