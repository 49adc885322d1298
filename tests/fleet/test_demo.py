"""The demo, run as a newcomer would run it."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fleet.digits import FOLDER, PLAN, TASK

DEMO = [sys.executable, "-m", "fleet.cli", "demo"]


def _processes_of(folder: Path) -> list[psutil.Process]:
    """Every live process whose command line names the demo's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in argument for argument in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(240)
def test_the_demo_trains_through_its_troubles_and_leaves_nothing_running(tmp_path: Path) -> None:
    # In the folder that it takes by itself, below the one that the newcomer is in.
    done = subprocess.run(DEMO, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    folder = tmp_path / "lamplighter-demo"
    assert done.returncode == 0, done.stdout + done.stderr
    shown = re.search(r"held-out digits right\s+\((\d+\.\d)%\)", done.stdout)
    assert shown, done.stdout
    assert float(shown[1]) >= 90
    assert "device-5 killed" in done.stdout
    assert "device-7 is plugged in" in done.stdout
    coordinator = (folder / "logs" / "coordinator.log").read_text()
    assert "round 1 closed (deadline)" in coordinator
    # What was half sent when the agent was killed was delivered by the next one, from its outbox.
    killed = (folder / "logs" / "device-5.log").read_text()
    first, *_ = re.findall(r"update of (\S+): (\w+)", killed)
    assert first[1] == "accepted"
    assert "update of" in (folder / "logs" / "device-6.log").read_text()
    assert ": late" in (folder / "logs" / "device-6.log").read_text()
    assert (folder / "digits.onnx").stat().st_size > 5000
    assert _processes_of(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_the_demo_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "demo"
    demo = subprocess.Popen(
        [*DEMO, "--folder", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 60
        agent_logs = folder / "logs" / "device-7.log"
        while not agent_logs.exists():
            assert demo.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        demo.send_signal(number)
        _, said = demo.communicate(timeout=30)
    finally:
        demo.kill()
    assert demo.returncode == 130
    assert b"no process is left behind" in said
    assert b"Traceback" not in said
    assert _processes_of(folder) == []


def test_a_folder_that_is_not_a_demos_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    done = subprocess.run(
        [*DEMO, "--folder", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "not a demo's" in done.stderr
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_shipped_plan_is_what_the_task_compiles_to() -> None:
    from onnxruntime.capi import _pybind_state

    if not hasattr(_pybind_state, "GradientGraphBuilder"):
        pytest.skip("needs the training build (Python 3.11 or 3.12, not on Linux ARM)")
    from coordinator import taskfile
    from coordinator.compiler.compile import compile_beside
    from coordinator.compiler.folder import read_plan_dir

    task = taskfile.load(TASK)
    compiled = compile_beside(task, FOLDER)
    assert read_plan_dir(PLAN).manifest == compiled.manifest, "run: python -m fleet.digits.make"
