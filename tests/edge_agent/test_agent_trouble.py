"""The agent in trouble that lasts: it asks ever more rarely, forgets nothing, and goes on."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from edge_agent.job import Outcome
from tests.coordinator.plans import plan
from tests.coordinator.serving import Serving
from tests.edge_agent.homes import Between, Home, Settle
from wire.digest import hex_of


def absent(request: web.Request) -> web.Response:
    return web.Response(status=503)


async def rests_of(one: Home, count: int) -> list[float]:
    """The agent's next rests, in seconds."""
    begun = len(one.rests)
    await one.until(lambda: len(one.rests) == begun + count)
    return [rest.seconds for rest in one.rests[begun:]]


def grow(waits: list[float]) -> bool:
    """Whether waits that double, with half of each a matter of chance, do so up to their bound."""
    return waits[0] <= 2.0 and waits[-1] >= 300.0 and max(waits) <= 600.0


async def test_check_ins_become_rare_while_the_coordinator_is_absent(
    home: Settle, between: Between
):
    one = await home()
    between.answer = absent
    first, *waits = await rests_of(one, 12)
    assert first <= 30.0  # the spread of a fleet that starts together
    assert grow(waits)
    assert one.rests[-1].why.startswith("http_503: ")


async def test_uploads_become_rare_while_the_coordinator_is_absent(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1, deadline="1d").create(served.admin)
    one = await home()
    await one.until(lambda: one.trainer.jobs)
    between.answer = absent
    assert grow(await rests_of(one, 11))
    assert len(await one.outbox()) == 1
    assert len(one.trainer.jobs) == 1
    between.answer = lambda request: None
    await one.until(lambda: served.task().round.number == 2)
    assert await one.settled() == [(1, "accepted")]


async def test_a_model_that_never_comes_whole_is_asked_for_ever_more_rarely(
    served: Serving, home: Settle, between: Between
):
    """Each check-in succeeds, so it is not that one which fails."""
    await plan(goal=1, deadline="1d").create(served.admin)
    one = await home()
    between.answer = lambda request: (
        web.Response(body=b"damaged") if "/blobs/" in request.path else None
    )
    _, *waits = await rests_of(one, 12)
    assert grow(waits)
    assert one.trainer.jobs == []


async def test_a_full_disk_is_waited_out(served: Serving, home: Settle):
    await plan(goal=1, deadline="1d").create(served.admin)
    one = await home()
    model = hex_of(served.task().model.digest)
    assert one.state.volatile_models == one.state.cached_models  # no folder in memory here
    aside = one.state.cached_models / f".{model}.safetensors.new"
    await asyncio.to_thread(aside.symlink_to, "/dev/full")
    await one.until(lambda: one.rests and "state: " in one.rests[-1].why)
    assert "No space left on device" in one.rests[-1].why
    await asyncio.to_thread(aside.unlink, missing_ok=True)
    await one.until(lambda: served.task().round.number == 2)
    assert await one.settled() == [(1, "accepted")]


async def test_a_history_that_cannot_be_saved_stops_nothing(served: Serving, home: Settle):
    await plan(goal=1, rounds=2).create(served.admin)
    one = await home()
    aside = one.state.folder / ".history.json.new"
    await asyncio.to_thread(aside.symlink_to, "/dev/full")
    await one.until(lambda: not served.task().running)
    assert await one.outbox() == []
    assert [s.outcome for s in one.agent.status().served] == ["accepted"] * 2


async def test_the_history_survives_a_restart(served: Serving, home: Settle):
    await plan(goal=1, rounds=1).create(served.admin)
    one = await home()
    await one.agent.once()
    before = one.agent.status()
    await one.restart()
    after = one.agent.status()
    assert after.served == before.served
    assert [s.outcome for s in after.served] == ["accepted"]
    assert after.bytes_up == before.bytes_up > 0
    assert after.bytes_down == before.bytes_down > 0


async def test_what_was_known_of_an_update_that_waited_survives_a_restart(
    served: Serving, home: Settle, between: Between
):
    await plan(goal=1).create(served.admin)
    one = await home()
    await one.until(lambda: one.trainer.jobs)
    assert await one.settled() == [(1, "waiting")]
    await one.restart()
    await one.until(lambda: served.task().round.number == 2)
    (found,) = one.agent.status().served
    assert (found.task, found.round, found.outcome) == ("digits", 1, "accepted")
    assert (found.examples, found.loss) == (30, 0.5)


async def test_a_stop_saves_the_history(served: Serving, home: Settle):
    one = await home()
    running = asyncio.create_task(one.agent.run())
    await served.until(lambda: one.agent.status().doing == "waiting")
    history = one.state.folder / "history.json"
    assert not await asyncio.to_thread(history.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await asyncio.to_thread(history.exists)


async def test_training_ends_at_the_round_s_deadline(served: Serving, home: Settle):
    await plan(goal=1, deadline="1m").create(served.admin)
    one = await home()

    async def dawdle() -> None:
        served.clock.leap(61.0)

    one.trainer.meanwhile, one.trainer.stubborn = dawdle, True
    await one.until(lambda: one.trainer.stops)
    assert one.trainer.stops == [Outcome.OUT_OF_TIME]
    assert await one.settled() == [(1, "out_of_time")]


async def test_an_update_that_was_accepted_unheard_counts_once(served: Serving, home: Settle):
    """The agent died between the acknowledgement and forgetting the update."""
    await plan(goal=2, over_selection=1.0).create(served.admin)
    one = await home()
    await one.until(lambda: one.trainer.jobs)
    (waiting,) = await one.outbox()
    path: Path = one.state.update_path(waiting)
    content = await asyncio.to_thread(path.read_bytes)
    await one.until(lambda: served.task().round.arrived)
    await one.until(lambda: one.rests and one.rests[-1].why == "already_served")
    await asyncio.to_thread(path.write_bytes, content)
    await one.restart()
    await one.agent.once()
    assert await one.outbox() == []
    assert await one.settled() == [(1, "accepted")]
    assert served.task().round.arrived == 1


async def test_a_device_that_is_not_eligible_asks_for_nothing(served: Serving, home: Settle):
    await plan(goal=1).create(served.admin)
    one = await home()
    await asyncio.to_thread(one.power, False)
    await one.until(lambda: len(one.rests) == 6)
    assert one.agent.status().bytes_up == 0
    assert all(rest.why == "on_battery: battery at 90 %" for rest in one.rests[1:])


async def test_a_power_cut_forgets_little_of_what_failed_downloads_cost(
    served: Serving, home: Settle, between: Between
):
    """Or a device that dies in each of them has its budget anew each time."""
    await plan(goal=1, deadline="1d").create(served.admin)
    one, asked = await home(), []

    def damaged(request: web.Request) -> web.Response | None:
        if "/blobs/" not in request.path:
            return None
        asked.append(request.path)
        return web.Response(body=bytes(600_000))

    between.answer = damaged
    await one.until(lambda: len(asked) == 6)
    assert (await asyncio.to_thread(one.state.history)).spent.month.download > 1_500_000
