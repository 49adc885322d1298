"""A worker that is stopped (SIGSTOP) while it writes: the others say so, and go on after it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from coordinator.start import StoreOptions
from coordinator.store import sqlite
from coordinator.store.sqlite import lock_state, prepare
from tests.coordinator.plans import constant, plan
from tests.coordinator.raw import ask
from tests.coordinator.serving import LeapingClock, Serving, serving

AT_ONCE = 30
_STOPS = """
import os, signal, sys
from pathlib import Path
from coordinator.store.opening import connect
from coordinator.store.turns import Turns
state = Path(sys.argv[1])
database = connect(state)
with Turns(state, 10.0).turn():
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE driver SET told = told + 1")
    os.kill(os.getpid(), signal.SIGSTOP)
    database.execute("COMMIT")
"""


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    """One of several workers; it waits half a second for the others."""
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.5)
    state, clock = tmp_path / "state", LeapingClock()
    held = lock_state(state)
    await asyncio.to_thread(held.__enter__)
    try:
        anchor = await asyncio.to_thread(prepare, state, clock)
        options = StoreOptions(shared=True, anchor=anchor)
        async with serving(state, clock, options=options) as running:
            yield running
    finally:
        await asyncio.to_thread(held.__exit__, None, None, None)


@contextmanager
def stopped(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another worker, stopped while it writes. Blocking."""
    with subprocess.Popen([sys.executable, "-c", _STOPS, str(state)]) as process:
        try:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            yield process
        finally:
            process.kill()


async def test_the_others_answer_503_meanwhile_and_go_on_after(served: Serving, tmp_path: Path):
    await plan(goal=1, over_selection=3).create(served.admin)
    device, other = await served.devices(2)
    assignment = await device.take()
    path = f"/v1/assignments/{assignment.id}/give-up"
    body = b'{"reason": "battery"}'
    other_worker = stopped(tmp_path / "state")
    process = await asyncio.to_thread(other_worker.__enter__)
    try:
        start = time.monotonic()
        answers = await asyncio.gather(
            *(ask(served, "POST", path, {}, body, device.secret) for _ in range(AT_ONCE))
        )
        took = time.monotonic() - start
        assert {(a.status, a.code) for a in answers} == {(503, "storage")}
        assert all(int(a.headers["retry-after"]) > 0 for a in answers)
        assert took < 5.0  # not each after the other: that would be AT_ONCE times the wait
        assert (await ask(served, "GET", "/readyz")).status == 503
        assert (await ask(served, "GET", "/healthz")).status == 200
        assert (await served.admin.task("digits")).task.version == 0  # who only looks need not wait
        process.send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(process.wait) == 0
    finally:
        await asyncio.to_thread(other_worker.__exit__, None, None, None)
    for _ in range(100):
        answer = await ask(served, "POST", path, {}, body, device.secret)
        if answer.status == 204:
            break
        await asyncio.sleep(0.02)
    assert answer.status == 204
    await other.serve(constant(1.0))
    await served.round_ends(1)
    assert (await ask(served, "GET", "/readyz")).status == 200
