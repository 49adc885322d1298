"""A disk that fails under a running coordinator: nothing lost, nothing twice."""

import asyncio
import inspect
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.aggregation import rows
from coordinator.keeper import Keeper
from coordinator.start import open_coordinator
from edge_agent.errors import Rejected
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.raw import ask, post_headers, update_path
from tests.coordinator.serving import LeapingClock, Serving, denied, serving, sqlite_of
from wire.plan import Parameter

FULL = OSError(28, "No space left on device")
LARGE = (Parameter(name="w", shape=(40_000,)),)
Failing = Callable[[object, str], list[int]]


@pytest.fixture
def fails_once(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Make a method fail at its first call as on a full disk."""

    def break_(target: object, name: str) -> list[int]:
        works, calls = getattr(target, name), []

        def method(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 1:
                raise FULL
            return works(*arguments)

        assert not inspect.iscoroutinefunction(works)
        monkeypatch.setattr(target, name, method)
        return calls

    return break_


def transient(refused: Rejected) -> bool:
    """Whether it says: the disk does not take it now, try again."""
    return (refused.status, refused.code, refused.transient) == (503, "storage", True)


@pytest.mark.parametrize("step", ["append", "flush"])
async def test_an_update_that_cannot_be_kept_is_taken_at_the_next_try(
    served: Serving, fails_once: Failing, step: str, caplog: pytest.LogCaptureFixture
):
    await plan(goal=2).create(served.admin)
    before = await served.model()
    device, other = await served.devices(2)
    assignment = await device.take()
    data = device.write(assignment, constant(1.0))
    calls = fails_once(sqlite_of(served)._writer._segments, step)
    with pytest.raises(Rejected) as full:
        await device.deliver(assignment, data)
    assert transient(full.value)
    assert "Traceback" not in caplog.text, "one for each batch would fill what is left"
    assert (await served.admin.tasks())[0].arrived == 0
    await device.deliver(assignment, data)
    assert len(calls) >= 2
    await other.serve(constant(3.0))
    await served.round_ends(1)
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 2.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("action", "table"),
    [
        (sqlite3.SQLITE_INSERT, "payloads"),
        (sqlite3.SQLITE_UPDATE, "assignments"),
        (sqlite3.SQLITE_UPDATE, "standings"),
        (sqlite3.SQLITE_UPDATE, "rounds"),
    ],
)
async def test_an_update_that_cannot_be_journalled_leaves_no_trace_and_is_taken_later(
    served: Serving, action: int, table: str
):
    await plan(goal=2).create(served.admin)
    before = await served.model()
    device, other = await served.devices(2)
    assignment = await device.take()
    data = device.write(assignment, constant(1.0))
    with denied(served, action, table) as tried:
        answer = await ask(
            served, "POST", update_path(assignment), post_headers(device, data), data
        )
        with pytest.raises(Rejected) as full:
            await device.deliver(assignment, data)
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    assert tried
    assert transient(full.value)
    assert (await served.admin.tasks())[0].arrived == 0
    assert await served.states() == {device.id: "working"}
    await device.deliver(assignment, data)
    await other.serve(constant(3.0))
    await served.round_ends(1)
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 2.0, rtol=1e-6)


@pytest.mark.parametrize("step", ["announce", "write", "read"])
async def test_a_part_that_the_disk_does_not_take_is_sent_again(
    served: Serving, fails_once: Failing, step: str
):
    await plan(goal=1, parameters=LARGE).create(served.admin)
    before = await served.model()
    (device,) = await served.devices(1)
    assignment = await device.take()
    delta = weights(LARGE, seed=3)
    data = device.write(assignment, delta)
    assert len(data) > 64 << 10, "small ones never touch the disk"
    calls = fails_once(served.coordinator.services.parts, step)
    with pytest.raises(Rejected) as full:
        await device.deliver(assignment, data)
    assert transient(full.value)
    await device.deliver(assignment, data)
    assert len(calls) >= 2
    await served.round_ends(1)
    expected = before["w"] + delta["w"]
    np.testing.assert_allclose((await served.model())["w"], expected, rtol=1e-6, atol=1e-8)


async def test_a_place_that_cannot_be_journalled_is_not_given(served: Serving):
    await plan(goal=1, over_selection=1).create(served.admin)
    (device,) = await served.devices(1)
    with (
        denied(served, sqlite3.SQLITE_INSERT, "assignments"),
        pytest.raises(Rejected, match="storage"),
    ):
        await device.take()
    assert (await served.admin.tasks())[0].working == 0
    assert (await served.admin.tasks())[0].deadline is None
    await device.serve(constant(1.0))
    await served.round_ends(1)


@pytest.mark.parametrize(
    ("action", "table"),
    [
        (sqlite3.SQLITE_UPDATE, "rounds"),  # it does not begin to close
        (sqlite3.SQLITE_INSERT, "models"),  # the model is a blob, and is not published
        (sqlite3.SQLITE_INSERT, "rounds"),  # the next one cannot open
        (sqlite3.SQLITE_DELETE, "payloads"),
    ],
)
async def test_a_round_that_cannot_be_ended_in_the_journal_ends_at_the_next_try(
    served: Serving, action: int, table: str
):
    await plan(goal=2, minimum=1, deadline="10m").create(served.admin)
    before = await served.model()
    (device,) = await served.devices(1)
    await device.serve(constant(1.0))
    with denied(served, action, table) as tried:
        served.clock.leap(601.0)
        await served.until(lambda: tried)
        await asyncio.sleep(0.02)
        assert served.task().round.number == 1
    served.clock.leap(2.0)
    await served.round_ends(1)
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 1.0, rtol=1e-6)
    first, second = (await served.admin.task("digits")).rounds
    assert (first.phase, first.updates, second.phase) == ("closed", 1, "open")
    assert served.task().model.version == 1


async def test_a_round_ends_soon_after_a_store_that_was_away_for_long(served: Serving):
    await plan(goal=2, minimum=1, deadline="10m").create(served.admin)
    (device,) = await served.devices(1)
    await device.serve(constant(1.0))
    served.clock.leap(601.0)
    with denied(served, sqlite3.SQLITE_UPDATE, "rounds") as tried:
        for _ in range(80):
            served.clock.leap(1.0)
            await asyncio.sleep(0.005)
        assert tried
        assert served.task().round.number == 1
    served.clock.leap(2.0)
    await served.round_ends(1)


async def test_a_disk_that_is_full_at_the_close_is_named(
    served: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """As a disk says so: to write gives an error that names no file."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows, "_write", full)
    await plan(goal=1, sections="[aggregation]\nkind = 'median'").create(served.admin)
    (device,) = await served.devices(1)
    await device.serve(constant(1.0))
    await served.until(lambda: "could not be closed here" in caplog.text)
    scratch = served.coordinator.services.scratch
    assert f"[Errno 28] No space left on device: '{scratch}'" in caplog.text


async def test_a_scratch_folder_that_was_deleted_is_made_again(served: Serving):
    await plan(goal=1, sections="[aggregation]\nkind = 'median'").create(served.admin)
    (device,) = await served.devices(1)
    await asyncio.to_thread(served.coordinator.services.scratch.rmdir)
    await device.serve(constant(1.0))
    await served.round_ends(1)
    assert served.task().model.version == 1


async def test_a_task_that_cannot_be_stopped_goes_on(served: Serving):
    await plan(goal=1).create(served.admin)
    (device,) = await served.devices(1)
    with (
        denied(served, sqlite3.SQLITE_UPDATE, "rounds"),
        pytest.raises(Exception, match="cannot write to its store"),
    ):
        await served.admin.stop("digits")
    await device.serve(constant(1.0))
    await served.round_ends(1)
    assert (await served.admin.stop("digits")).state == "stopped"


async def test_when_devices_were_last_seen_is_worth_no_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    async with serving(tmp_path) as served:
        device = await served.device()
        await device.check_in()
        with denied(served, sqlite3.SQLITE_UPDATE, "devices") as tried:
            served.clock.leap(61.0)
            await served.until(lambda: tried)
            await served.until(lambda: "last seen is not written" in caplog.text)
        await device.check_in()
        served.clock.leap(100.0)
    async with serving(tmp_path, LeapingClock(served.clock.now())) as served:
        (found,) = await served.admin.devices()
        assert found.seen == pytest.approx(100.0, abs=10.0)


async def test_what_fails_inside_is_raised_as_it_is(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        async with open_coordinator(tmp_path):
            raise ZeroDivisionError
    async with open_coordinator(tmp_path):  # and the folder is free again
        pass


async def test_a_fault_in_a_rounds_timer_ends_the_coordinator_out_loud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def broken(_: Keeper) -> None:
        raise ZeroDivisionError

    async with serving(tmp_path) as served:
        await plan().create(served.admin)
    monkeypatch.setattr(Keeper, "run", broken)
    with pytest.raises(ZeroDivisionError):
        async with open_coordinator(tmp_path):
            await asyncio.sleep(3600)


async def test_cancelling_stops_it_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    started = asyncio.Event()

    async def run() -> None:
        async with open_coordinator(tmp_path):
            started.set()
            await asyncio.sleep(3600)

    running = asyncio.create_task(run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with open_coordinator(tmp_path):
        pass
