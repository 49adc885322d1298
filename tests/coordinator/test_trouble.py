"""A disk that fails under a running coordinator: said plainly, nothing lost, nothing twice."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.running import RunningTask
from coordinator.service import open_coordinator
from edge_agent.errors import Rejected
from tests.coordinator.plans import constant, plan
from tests.coordinator.serving import LeapingClock, Serving, serving

FULL = [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left")]
Failing = Callable[[object, str, Exception], list[int]]


@pytest.fixture
def fails_once(monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Make a method raise at its first call."""

    def break_(target: object, name: str, error: Exception) -> list[int]:
        works, calls = getattr(target, name), []

        def method(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == 1:
                raise error
            return works(*arguments)

        monkeypatch.setattr(target, name, method)
        return calls

    return break_


@pytest.mark.parametrize("error", FULL, ids=["database", "file system"])
@pytest.mark.parametrize("step", ["spool.write", "spool.seal", "database.accept"])
async def test_an_update_that_cannot_be_stored_is_taken_at_the_next_try(
    served: Serving, fails_once: Failing, step: str, error: Exception
):
    await plan(goal=2).create(served.admin)
    before = await served.model()
    device, other = await served.devices(2)
    assignment = await device.take()
    data = device.write(assignment, constant(1.0))
    part, method = step.split(".")
    calls = fails_once(getattr(served.coordinator.services, part), method, error)
    with pytest.raises(Rejected) as full:
        await device.deliver(assignment, data)
    assert (full.value.status, full.value.code, full.value.transient) == (503, "storage", True)
    assert (await served.admin.tasks())[0].arrived == 0
    await device.deliver(assignment, data)
    assert len(calls) >= 2
    await other.serve(constant(3.0))
    await served.round_ends(1)
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 2.0, rtol=1e-6)


@pytest.mark.parametrize("error", FULL, ids=["database", "file system"])
async def test_a_place_that_cannot_be_journalled_is_not_given(
    served: Serving, fails_once: Failing, error: Exception
):
    await plan(goal=1, over_selection=1).create(served.admin)
    (device,) = await served.devices(1)
    fails_once(served.coordinator.services.database, "assign", error)
    with pytest.raises(Rejected, match="storage"):
        await device.take()
    assert (await served.admin.tasks())[0].working == 0
    assert (await served.admin.tasks())[0].deadline is None
    await device.serve(constant(1.0))
    await served.round_ends(1)


@pytest.mark.parametrize("error", FULL, ids=["database", "file system"])
async def test_a_round_that_cannot_be_ended_in_the_journal_ends_at_the_next_try(
    served: Serving, fails_once: Failing, error: Exception
):
    await plan(goal=1).create(served.admin)
    before = await served.model()
    calls = fails_once(served.coordinator.services.database, "end_round", error)
    (device,) = await served.devices(1)
    await device.serve(constant(1.0))
    await served.until(lambda: calls)
    await asyncio.sleep(0.01)
    served.clock.leap(2.0)
    await served.round_ends(1)
    np.testing.assert_allclose((await served.model())["w"], before["w"] + 1.0, rtol=1e-6)
    assert [m for m in (await served.admin.task("digits")).rounds if m.phase == "closed"]


async def test_a_task_that_cannot_be_stopped_goes_on(served: Serving, fails_once: Failing):
    await plan(goal=1).create(served.admin)
    fails_once(served.coordinator.services.database, "end_round", FULL[0])
    (device,) = await served.devices(1)
    with pytest.raises(Exception, match="cannot write to its disk"):
        await served.admin.stop("digits")
    await device.serve(constant(1.0))
    await served.round_ends(1)
    assert (await served.admin.stop("digits")).state == "stopped"


async def test_when_devices_were_last_seen_is_worth_no_stop(
    tmp_path: Path, fails_once: Failing, caplog: pytest.LogCaptureFixture
):
    async with serving(tmp_path) as served:
        calls = fails_once(served.coordinator.services.database, "saw", FULL[0])
        device = await served.device()
        await device.check_in()
        served.clock.leap(61.0)
        await served.until(lambda: calls)
        await device.check_in()
        assert "last seen is not written" in caplog.text
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
    async def broken(_: RunningTask) -> None:
        raise ZeroDivisionError

    async with serving(tmp_path) as served:
        await plan().create(served.admin)
    monkeypatch.setattr(RunningTask, "run", broken)
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
