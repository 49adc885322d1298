"""The agent as a guest: what it does when its owner, the network, the budget or the time say no.

The real coordinator over loopback; a stand-in trains; time leaps."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web

from edge_agent import consent
from edge_agent.job import Outcome
from fleet.proxy import Faults, Proxy
from tests.coordinator.plans import plan, weights
from tests.coordinator.serving import Serving
from tests.edge_agent.homes import Between, Home, Settle
from wire.plan import Parameter

BIG = (Parameter(name="w", shape=(100, 100)),)
"""Weights of 40 kB: time enough to cut their transfer off."""

DAY = 86400.0


class Requests:
    """What the coordinator was asked."""

    def __init__(self, between: Between) -> None:
        self.seen: list[str] = []
        between.after = self._see

    async def _see(self, request: web.Request) -> None:
        self.seen.append(f"{request.method} {request.path.rsplit('/', 1)[-1]}")


@asynccontextmanager
async def behind(one: Home, faults: Faults) -> AsyncIterator[Proxy]:
    """A home whose way to the coordinator has faults."""
    async with Proxy("127.0.0.1", one.served.port, faults) as proxy:

        def move() -> None:
            known = one.state.identity()
            one.state.save_identity(msgspec.structs.replace(known, url=proxy.url))
            one.agree()

        await asyncio.to_thread(move)
        await one.restart()
        yield proxy


async def withdrawn(one: Home) -> None:
    await asyncio.to_thread(consent.withdraw, one.state.folder)


# Consent


async def test_consent_withdrawn_in_mid_training_stops_it_at_once_and_nothing_is_sent(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1, deadline="10h").create(served.admin)
    one = await home()
    withdrawn_at = []

    async def withdraw() -> None:
        await withdrawn(one)
        withdrawn_at.append(served.clock.monotonic())

    one.trainer.meanwhile, one.trainer.stubborn = withdraw, True
    await one.until(lambda: one.trainer.stops)
    assert served.clock.monotonic() - withdrawn_at[0] < 1.0
    assert one.trainer.stops == [Outcome.PREEMPTED]
    asked = Requests(between)
    await one.until(lambda: len(one.rests) > 20)
    assert one.said().startswith("waiting for ")
    assert "no_consent: the owner has not agreed" in one.said()
    assert asked.seen == []
    one.trainer.stubborn = False
    await asyncio.to_thread(one.agree)
    await one.until(lambda: served.task().round.number == 2)
    assert len(one.trainer.assignments) == 2
    assert len(set(one.trainer.assignments)) == 1


async def test_a_failure_is_not_told_when_consent_was_withdrawn_just_before(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1, deadline="10h").create(served.admin)
    one = await home()
    one.trainer.meanwhile = lambda: withdrawn(one)
    one.trainer.ends = [Outcome.CRASHED]
    await one.until(lambda: one.trainer.jobs)
    asked = Requests(between)
    await one.until(lambda: len(one.rests) > 20)
    assert await one.settled() == [(1, "crashed")]
    assert asked.seen == []
    assert set((await served.states()).values()) == {"working"}


async def test_consent_withdrawn_in_mid_upload_cuts_it_off_and_the_update_stays(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1, parameters=BIG, deadline="10h").create(served.admin)
    one = await home()
    one.trainer.delta = weights(BIG)
    async with behind(one, Faults(rate=20_000, marker=b"PATCH ")) as proxy:
        await one.until(lambda: one.trainer.jobs)
        turning = asyncio.create_task(after_bytes(proxy, 3000, withdrawn(one)))
        await one.until(lambda: one.rests and "no_consent" in one.rests[-1].why)
        await turning
        size = len(await asyncio.to_thread(one.state.update, one.trainer.assignments[0]))
        asked = Requests(between)
        await one.until(lambda: len(one.rests) > 20)
        assert asked.seen == []
        assert proxy.passed < size
        assert len(await one.outbox()) == 1
        assert await one.settled() == [(1, "waiting")]
        proxy.faults.rate = None
        await asyncio.to_thread(one.agree)
        await one.until(lambda: one.outcomes == ["accepted"])


async def after_bytes(proxy: Proxy, count: int, turn: object) -> None:
    await proxy.wait_passed(count)
    await turn  # type: ignore[misc]


# The network


async def test_an_upload_is_cut_off_when_the_network_becomes_metered_and_goes_on_when_it_is_free(
    served: Serving, home: Settle
):
    await plan(goal=1, parameters=BIG, deadline="10h").create(served.admin)
    one = await home()
    one.trainer.delta = weights(BIG)
    async with behind(one, Faults(rate=20_000, marker=b"PATCH ")) as proxy:
        await one.until(lambda: one.trainer.jobs)
        roam = asyncio.to_thread(one.network, "wwan0")
        turning = asyncio.create_task(after_bytes(proxy, 3000, roam))
        await one.until(lambda: one.rests and "metered" in one.rests[-1].why)
        await turning
        size = len(await asyncio.to_thread(one.state.update, one.trainer.assignments[0]))
        assert proxy.passed < size
        assert one.said().endswith(": metered: wwan0 is metered")
        proxy.faults.rate = None
        await asyncio.to_thread(one.network, "eth0")
        await one.until(lambda: one.outcomes == ["accepted"])
    assert len(one.trainer.jobs) == 1


async def test_a_download_is_cut_off_too_and_the_same_work_is_fetched_when_it_is_free(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1, deadline="10h").create(served.admin)
    one = await home()
    let_go = asyncio.Event()

    async def hold(request: web.Request) -> None:
        if "/blobs/" in request.path:
            await asyncio.to_thread(one.network, "wwan0")
            await let_go.wait()

    between.after = hold
    await one.until(lambda: one.rests and "metered" in one.rests[-1].why)
    assert one.said().endswith(": metered: wwan0 is metered")
    assert "offline" not in one.said()
    assert one.trainer.jobs == []
    between.after = None
    let_go.set()
    await asyncio.to_thread(one.network, "eth0")
    await one.until(lambda: one.outcomes == ["accepted"])
    assert len(await served.states()) == 1


async def test_a_check_in_without_an_answer_ends_when_the_network_becomes_metered(
    served: Serving, home: Settle, between: Between
):
    one = await home()
    let_go = asyncio.Event()

    async def hold(request: web.Request) -> None:
        await asyncio.to_thread(one.network, "wwan0")
        await let_go.wait()

    between.after = hold
    await one.until(lambda: one.rests and "metered" in one.rests[-1].why)
    let_go.set()


async def test_time_spent_fetching_is_not_time_to_train(
    served: Serving, home: Settle, between: Between
):
    """A deadline counts from the coordinator's answer."""
    await plan(goal=1, deadline="100s").create(served.admin)
    one = await home()

    async def dawdle(request: web.Request) -> None:
        if "/blobs/" in request.path:
            served.clock.leap(25.0)  # five files

    between.after = dawdle
    await one.until(lambda: one.outcomes)
    assert one.trainer.jobs == []
    assert one.outcomes == ["preempted"]


# Budgets


async def test_when_the_traffic_budget_is_spent_nothing_is_sent_until_the_next_day(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1, over_selection=1.0, deadline="2d").create(served.admin)
    one = await home()
    await one.until(lambda: one.outcomes == ["accepted"])
    status = one.agent.status()
    await one.configure(f'budget.traffic = "{status.bytes_up + status.bytes_down} B"')
    await one.until(lambda: one.rests and "used today" in one.rests[-1].why)
    asked = Requests(between)
    await one.until(lambda: len(one.rests) > 30)
    assert "bytes_spent: " in one.said()
    assert asked.seen == []
    assert len(one.trainer.jobs) == 1
    served.clock.leap(DAY)
    await one.until(lambda: one.outcomes == ["accepted", "accepted"])


async def test_an_upload_is_cut_off_when_the_traffic_budget_is_spent(served: Serving, home: Settle):
    await plan(goal=1, parameters=BIG, deadline="3d").create(served.admin)
    one = await home()
    one.trainer.delta = weights(BIG)
    await one.configure('budget.traffic = "60 kB"')
    async with behind(one, Faults(rate=40_000, marker=b"PATCH ")) as proxy:
        await one.until(lambda: one.rests and "bytes_spent" in one.rests[-1].why)
        size = len(await asyncio.to_thread(one.state.update, one.trainer.assignments[0]))
        assert 0 < proxy.passed < size
        assert len(await one.outbox()) == 1
        served.clock.leap(DAY)
        await one.until(lambda: one.outcomes == ["accepted"])


async def test_training_stops_when_its_budget_is_spent_and_goes_on_the_next_day(
    served: Serving, home: Settle
):
    await plan(goal=1, deadline="2d").create(served.admin)
    one = await home()
    await one.configure('budget.training = "10m"')

    async def dawdle() -> None:
        served.clock.leap(601.0)

    one.trainer.meanwhile, one.trainer.stubborn = dawdle, True
    await one.until(lambda: one.rests and "minutes_spent" in one.rests[-1].why)
    assert one.trainer.stops == [Outcome.PREEMPTED]
    assert "of 10 min used today" in one.said()
    one.trainer.stubborn = False
    await one.until(lambda: len(one.rests) > 30)
    assert len(one.trainer.jobs) == 1
    served.clock.leap(DAY)
    await one.until(lambda: one.outcomes == ["accepted"])
    assert len(set(one.trainer.assignments)) == 1


async def test_costs_are_counted_once_and_outlive_a_kill(served: Serving, home: Settle):
    await plan(goal=1, deadline="2d").create(served.admin)
    one = await home()
    await one.configure('budget.training = "10m"\nbudget.traffic = "1 MB"')

    async def dawdle() -> None:
        served.clock.leap(601.0)

    one.trainer.meanwhile, one.trainer.stubborn = dawdle, True
    await one.until(lambda: one.trainer.stops)
    # Not stopped in order: there is nobody any more to write down what was in memory.
    before = (await asyncio.to_thread(one.state.history)).spent
    assert 601.0 <= before.training < 605.0
    history = await asyncio.to_thread(one.state.history)
    assert before.traffic == history.bytes_up + history.bytes_down > 0
    for _ in range(2):
        await one.restart()
        one.rests.clear()
        await one.until(lambda: one.rests and one.rests[-1].why.startswith("minutes_spent"))
        assert await ended_in_order(one) == before
    one.trainer.stubborn = False
    served.clock.leap(DAY)
    await one.until(lambda: one.outcomes == ["accepted"])
    after = (await asyncio.to_thread(one.state.history)).spent
    assert after.day > before.day
    assert after.training < 5.0


async def ended_in_order(one: Home) -> object:
    """What the day cost, as an agent that is stopped leaves it."""
    running = asyncio.create_task(one.agent.run())
    await one.served.until(lambda: one.agent.status().doing == "waiting")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    return (await asyncio.to_thread(one.state.history)).spent


# Time


async def test_an_assignment_whose_time_passes_while_the_device_is_wanted_is_given_back(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1, deadline="1h").create(served.admin)
    one = await home()

    async def unplug() -> None:
        await asyncio.to_thread(one.power, False)

    one.trainer.meanwhile, one.trainer.stubborn = unplug, True
    await one.until(lambda: one.trainer.stops)
    (work,) = one.trainer.assignments
    kept = one.state.checkpoint_path(work)
    await asyncio.to_thread(kept.write_bytes, b"what was trained")
    asked = Requests(between)
    served.clock.leap(3500.0)
    await one.until(lambda: "preempted" in one.outcomes, steps=200)
    await one.until(lambda: one.agent.status().doing == "waiting")
    assert asked.seen == ["POST give-up"]
    (found,) = await asyncio.to_thread(lambda: one.history)
    assert (found.round, found.outcome) == (1, "preempted")
    assert found.detail == "its deadline passed while the device was not eligible"
    assert not await asyncio.to_thread(kept.exists)
    assert await one.outbox() == []
    assert "on_battery" in one.said()


async def test_it_is_given_back_in_silence_where_the_network_may_not_be_used(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1, deadline="1h").create(served.admin)
    one = await home()
    one.trainer.meanwhile = lambda: asyncio.to_thread(one.network, "wwan0")
    one.trainer.stubborn = True
    await one.until(lambda: one.trainer.stops)
    asked = Requests(between)
    served.clock.leap(3601.0)
    await one.until(lambda: "preempted" in one.outcomes)
    assert asked.seen == []


async def test_failures_in_a_row_outlive_a_restart(served: Serving, home: Settle):
    await plan(goal=3, deadline="2d").create(served.admin)
    one = await home()
    one.trainer.ends = [Outcome.CRASHED]
    await one.until(lambda: one.said().endswith("rests after a failure: crashed"))
    assert (await asyncio.to_thread(one.state.history)).failed == 1
    await one.restart()
    rest = await one.agent.step()
    assert rest
    assert rest.seconds >= 60.0
    errand = await one.agent.once()
    assert not errand.failed  # what failed was before


async def test_what_once_tried_and_failed_is_told_though_other_things_had_failed_before(
    served: Serving, home: Settle
):
    await plan(goal=1, over_selection=3.0, deadline="2d").create(served.admin)
    one = await home()
    one.trainer.ends = [Outcome.CRASHED]
    assert (await one.agent.once()).failed
    assert not (await one.agent.once()).failed


async def test_work_waits_until_all_signals_have_held(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1).create(served.admin)
    one = await home()
    one.text = one.text.replace('settle = "0s"', 'settle = "5m"')
    await one.restart()
    asked = Requests(between)
    begun = served.clock.monotonic()
    await one.until(lambda: served.clock.monotonic() >= begun + 200.0, steps=300)
    assert one.said().split(": ", 1)[1].startswith("settling: all signals must say yes for ")
    await asyncio.to_thread(one.power, False)  # for a moment
    await one.agent.step()
    await asyncio.to_thread(one.power, True)
    held = served.clock.monotonic()
    await one.until(lambda: asked.seen, steps=500)
    assert 300.0 <= served.clock.monotonic() - held < 400.0
    await one.until(lambda: one.outcomes == ["accepted"], steps=500)


async def test_once_does_not_wait_for_signals_to_have_held(served: Serving, home: Settle):
    await plan(goal=1).create(served.admin)
    one = await home()
    one.text = one.text.replace('settle = "0s"', 'settle = "5m"')
    await one.restart()
    assert (await one.agent.once()).did


# The disk


async def test_an_update_that_cannot_be_read_is_waited_for_and_stops_nothing(
    served: Serving, home: Settle
):
    await plan(goal=1, deadline="2d").create(served.admin)
    one = await home()
    await one.until(lambda: one.trainer.jobs)
    path = one.state.update_path(one.trainer.assignments[0])
    aside = path.with_suffix(".aside")

    def hide() -> None:
        path.rename(aside)
        path.symlink_to("/proc/self/mem")  # a file whose reading is an error

    await asyncio.to_thread(hide)
    await one.until(lambda: one.rests and "cannot be read" in one.rests[-1].why)
    assert one.rests[-1].why.startswith("an update waits to be sent: state: ")
    await asyncio.to_thread(aside.replace, path)
    await one.until(lambda: one.outcomes == ["accepted"])


async def test_the_status_tells_for_how_long_a_reason_holds_though_its_figures_change(
    served: Serving, home: Settle
):
    one = await home()
    await asyncio.to_thread(one.power, False)
    await one.until(lambda: "on_battery" in one.said())
    served.clock.leap(600.0)
    await asyncio.to_thread(one.machine.supply, "BAT", capacity=80)
    await one.agent.step()
    assert one.said().startswith("waiting for 10 min ")
    assert one.said().endswith(": on_battery: battery at 80 %")


async def test_a_model_that_the_budget_does_not_hold_is_not_begun(
    served: Serving, home: Settle, between: Between
):
    """A budget that was overdrawn before it was looked at is none."""
    await plan(goal=1, parameters=BIG, deadline="3d").create(served.admin)
    one = await home()
    await one.configure('budget.traffic = "30 kB"')
    await one.until(lambda: len(one.rests) > 25)
    history = await asyncio.to_thread(one.state.history)
    assert history.bytes_up + history.bytes_down <= 30_000
    assert one.trainer.jobs == []


# What may be gone


async def test_a_model_that_is_gone_from_memory_is_fetched_again(served: Serving, home: Settle):
    """A login's folder in memory goes with the logout."""
    await plan(goal=1, deadline="10h").create(served.admin)
    one = await home()

    async def unplug() -> None:
        await asyncio.to_thread(one.power, False)

    one.trainer.meanwhile, one.trainer.stubborn = unplug, True
    await one.until(lambda: one.rests and "on_battery" in one.rests[-1].why)
    model = one.trainer.jobs[0].model
    await asyncio.to_thread(os.unlink, model)
    await asyncio.to_thread(one.power, True)
    one.trainer.stubborn = False
    await one.until(lambda: one.outcomes == ["accepted"])
    assert one.trainer.jobs[-1].model == model
    assert len(set(one.trainer.assignments)) == 1


async def test_nothing_of_one_fleet_goes_to_the_next(served: Serving, home: Settle):
    one = await home()
    await asyncio.to_thread(one.state.update_path("digits-1").write_bytes, b"of another fleet")
    history = await asyncio.to_thread(one.state.history)
    history.device, history.evaluated = "another", {"digits": 11}
    await asyncio.to_thread(one.state.save_history, history)
    await one.restart()
    assert await one.outbox() == []
    found = await asyncio.to_thread(lambda: one.state.history_of(one.device))
    assert (found.evaluated, found.served) == ({}, [])
