"""Worker processes: the same result as without, however many; and what is left when all ends."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import psutil
import pytest

from fleet.digits import PLAN
from fleet.simulation import Devices, Result, WorkerDied, setting
from fleet.simulation.crew import Processes, _Asked
from fleet.simulation.data import gather
from fleet.simulation.setting import Setting, folders
from fleet.simulation.workshop import Workshop
from fleet.virtual import DUPLICATE, FLAPPING, LYING, SILENT, Behaviour
from tests.fleet.simulation.small import MANIFEST, QUICK, digits, fleet, played, task
from wire.checkpoint import Weights

UNEVEN = Behaviour(training=5.0, spread=0.8)
TROUBLED = [QUICK] * 4 + [UNEVEN] * 4 + [SILENT, FLAPPING, DUPLICATE, LYING]
DEVICES = len(TROUBLED)


def troubled(codec: str, workers: int) -> Result:
    held_out = [np.arange(1200, 1200 + 5 * d) for d in range(DEVICES)]
    what = task(5, 4, codec, late="fold", max_staleness=2, over_selection=1.5)
    devices = fleet(DEVICES, behaviours=TROUBLED, held_out=held_out)
    return played(what, devices, workers=workers, test=digits()[1])


def same(found: Weights, expected: Weights) -> None:
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize("codec", ["uniform:8", "top:1/10+sign"])
def test_the_result_does_not_depend_on_the_number_of_workers(codec: str) -> None:
    here, apart = troubled(codec, 0), troubled(codec, 2)
    same(apart.weights, here.weights)
    assert apart.to_rows() == here.to_rows()
    assert [v.losses for v in apart.versions] == [v.losses for v in here.versions]
    assert here.versions[-1].devices["accuracy"].devices == DEVICES - 1


def test_another_seed_is_another_result() -> None:
    first, second = (played(task(2, 1), fleet(6), seed=seed) for seed in (1, 2))
    assert first.versions[1].losses != second.versions[1].losses
    same(played(task(2, 1), fleet(6), seed=1).weights, first.weights)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, all of them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(setting, "_MEMORY", tmp_path)
    return tmp_path


def workers(of: int | None = None) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(of).children()
        if "fleet.simulation.worker" in child.cmdline()
    ]


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_nothing_is_left_when_it_is_broken_off(temporary: Path, error: type[BaseException]) -> None:
    def stop(version: object) -> None:
        assert len(workers()) == 2
        assert list(temporary.glob("*/pool-0.npy"))
        raise error

    with pytest.raises(error):
        played(task(2, 3), fleet(2), workers=2, on_version=stop)
    assert not workers()
    assert not list(temporary.iterdir())


def test_nothing_is_left_at_the_end(temporary: Path) -> None:
    played(task(2, 2), fleet(2), workers=1)
    assert not workers()
    assert not list(temporary.iterdir())


def test_a_worker_that_is_killed_is_told_of(temporary: Path) -> None:
    def kill(version: object) -> None:
        os.kill(workers()[0].pid, signal.SIGKILL)

    with pytest.raises(WorkerDied, match="was killed by SIGKILL: out of memory"):
        played(task(2, 300), fleet(2), workers=1, on_version=kill)
    assert not workers()
    assert not list(temporary.iterdir())


def test_what_is_cancelled_before_it_begins_is_not_done() -> None:
    devices = Devices(pool=digits()[0], shares=[np.arange(400)])
    data = gather(devices, MANIFEST.inputs, digits()[1])
    with folders() as (disk, quick):
        model = quick / "model"
        model.write_bytes((PLAN / "checkpoint.safetensors").read_bytes())
        crew = Processes(Setting(MANIFEST, PLAN, disk, quick, False, data), 1)
        try:
            long = crew.ask(0.0, Workshop.alone, str(model), 0, 100, 1)
            dropped = [crew.ask(1.0, Workshop.alone, str(model), 0, 10**6, 1) for _ in range(50)]
            urgent = crew.ask(0.5, Workshop.totals, str(model), 0, 10)
            for pending in dropped:
                pending.cancel()
            assert len(long.result()) == 101
            assert float(urgent.result()[0]) > 0
        finally:
            crew.close()


@pytest.fixture
def crew() -> Iterator[Processes]:
    """One worker, of one device."""
    with folders() as (disk, quick):
        data = gather(fleet(1), MANIFEST.inputs, digits()[1])
        found = Processes(Setting(MANIFEST, PLAN, disk, quick, False, data), 1)
        yield found
        found.close()


def test_what_a_worker_raises_is_raised_here(crew: Processes) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        crew.ask(0.0, Workshop.evaluate, "nowhere", (0,)).result()


def test_an_error_that_cannot_be_read_here_is_told_in_words(
    crew: Processes, tmp_path: Path
) -> None:
    """Pickle writes a `WireError` and cannot make it anew: it has two arguments."""
    (tmp_path / "model").write_bytes(b"nonsense")
    with pytest.raises(RuntimeError, match="WireError: too_large"):
        crew.ask(0.0, Workshop.totals, str(tmp_path / "model"), 0, 10).result()


@pytest.mark.timeout(20)
def test_work_that_timed_out_is_not_waited_for(crew: Processes) -> None:
    """A disk on a network raises it, too."""
    future: Future[None] = Future()
    future.set_exception(TimeoutError("the disk"))
    with pytest.raises(TimeoutError, match="the disk"):
        _Asked(future, crew).result()


_ENDLESS = """
import sys
from pathlib import Path
from dataclasses import replace
from fleet.simulation import setting
from tests.fleet.simulation.small import fleet, played, task
setting._MEMORY = Path(sys.argv[1])
played(task(2, 10**6), fleet(2), workers=2, on_version=lambda _: print("on", flush=True))
"""


def test_workers_end_and_clear_up_when_the_simulation_is_killed(tmp_path: Path) -> None:
    started = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(tmp_path)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    try:
        assert started.stdout is not None
        assert started.stdout.readline() == b"on\n"
        children = psutil.Process(started.pid).children()
        assert len(children) == 2
        assert len(list(tmp_path.iterdir())) == 2
    finally:
        started.kill()
        started.communicate()
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not list(tmp_path.iterdir())


def catches(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether it has a handler of its own: Python's own one for SIGINT is there from the start."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> number - 1 & 1)


def test_ctrl_c_in_a_terminal_is_for_the_simulation_alone(tmp_path: Path) -> None:
    # A terminal sends it to its whole foreground, and here the workers are still importing.
    started = subprocess.Popen(
        [sys.executable, "-c", _ENDLESS, str(tmp_path)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while sum(catches(worker, signal.SIGINT) for worker in workers(started.pid)) < 2:
            assert started.poll() is None
            time.sleep(0.01)
        os.killpg(started.pid, signal.SIGINT)
        _, said = started.communicate(timeout=60)
    finally:
        started.kill()
        started.wait()
    assert said.count(b"Traceback") == 1, said.decode()  # the program's own
    assert not list(tmp_path.iterdir())
