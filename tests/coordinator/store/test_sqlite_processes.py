"""The SQLite store and real processes: killed in mid-group, and many at once."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordinator.store.sql import StoreError, recall, rows
from coordinator.store.sqlite import lock_state, open_sqlite, prepare
from schedules.clock import SystemClock
from tests.coordinator.store.contract import write
from tests.coordinator.store.writers import payload

CLOCK = SystemClock()


@pytest.fixture(autouse=True)
def no_blocking_calls() -> None:
    """These tests have files and processes in their hands, on the loop. That the store itself does
    not block it is held by `test_sqlite.py`."""


@contextmanager
def writer(state: Path, node: str, mode: str, first: int = 0) -> Iterator[subprocess.Popen[str]]:
    """A process that is ready to write; killed on the way out."""
    command = [sys.executable, "-m", "tests.coordinator.store.writers"]
    with subprocess.Popen(
        [*command, str(state), node, mode, str(first)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def begin(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def said(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.read().split()


async def check(state: Path, answered: list[str]) -> None:
    """What was answered is there; what is there is whole."""
    async with open_sqlite(state, "alone", CLOCK) as store:
        found = await store.read(rows, "SELECT key, value FROM meta WHERE key LIKE '%-%'")
        kept = await store.read(rows, "SELECT assignment FROM payloads")
        held = {row["key"] for row in found}
        assert set(answered) <= held
        assert {row["value"] for row in found} <= {"after"}
        assert {row["assignment"] for row in kept} == held
        for assignment in held:
            assert await store.read(recall, assignment) == payload(assignment)


@pytest.fixture
def kill_times() -> list[float]:
    rng = random.Random(7)
    return [rng.uniform(0.0, 0.25) for _ in range(6)]


async def test_what_was_answered_before_a_kill_is_there_and_nothing_is_half(tmp_path, kill_times):
    answered: list[str] = []
    for attempt, seconds in enumerate(kill_times):
        with writer(tmp_path / "state", "alone", "accept", attempt * 1_000_000) as process:
            begin(process)
            await asyncio.sleep(seconds)
            process.kill()
            answered += said(process)
        await check(tmp_path / "state", answered)
    assert len(answered) > 100, "too few were answered for the test to mean anything"


async def test_a_worker_that_is_killed_takes_nothing_of_the_others_with_it(tmp_path):
    state = tmp_path / "state"
    answered: list[str] = []
    with lock_state(state):
        prepare(state, CLOCK)
        with (
            writer(state, "worker-1", "accept") as one,
            writer(state, "worker-2", "accept") as two,
            writer(state, "worker-3", "accept") as three,
        ):
            begin(one, two, three)
            for process in (one, two, three):
                await asyncio.sleep(0.3)
                process.kill()
            heard = [said(process) for process in (one, two, three)]
    answered = [assignment for each in heard for assignment in each]
    assert all(heard), "each worker should have written something"
    await check(state, answered)


async def test_processes_at_full_load_lose_nothing_and_each_has_its_turn(tmp_path):
    state = tmp_path / "state"
    with lock_state(state):
        prepare(state, CLOCK)
        async with open_sqlite(state, "worker-0", CLOCK, shared=True) as store:
            await store.run(write, "count", "0")
        with (
            writer(state, "worker-1", "count") as one,
            writer(state, "worker-2", "count") as two,
            writer(state, "worker-3", "count") as three,
            writer(state, "worker-4", "count") as four,
        ):
            begin(one, two, three, four)
            heard = [said(process) for process in (one, two, three, four)]
            assert [p.wait(30) for p in (one, two, three, four)] == [0] * 4
    done, longest = [int(h[0]) for h in heard], [float(h[1]) for h in heard]
    print("transactions of each:", done, "longest waits:", longest)
    async with open_sqlite(state, "alone", CLOCK) as store:
        (row,) = await store.read(rows, "SELECT value FROM meta WHERE key = 'count'")
    assert int(row["value"]) == sum(done)
    assert min(done) > max(done) / 10
    assert max(longest) < 5.0


async def test_one_coordinator_at_a_time(tmp_path):
    state = tmp_path / "state"
    refused = pytest.raises(StoreError, match="is in use by another coordinator: stop it first")
    with writer(state, "alone", "accept"), refused:
        async with open_sqlite(state, "alone", CLOCK):
            pass
    async with open_sqlite(state, "alone", CLOCK):
        pass


async def test_workers_that_outlive_their_supervisor_keep_another_out(tmp_path):
    state = tmp_path / "state"
    with lock_state(state):
        prepare(state, CLOCK)
        orphan = writer(state, "worker-1", "accept")
        orphan.__enter__()
    try:
        with pytest.raises(StoreError, match="in use by workers of a coordinator"):
            async with open_sqlite(state, "alone", CLOCK):
                pass
    finally:
        orphan.__exit__(None, None, None)
    async with open_sqlite(state, "alone", CLOCK):
        pass
