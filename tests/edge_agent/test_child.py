"""The training child as a real process: its report, its end in stages, and who outlives whom."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from edge_agent.child import start_child
from edge_agent.job import Outcome, Report
from tests.edge_agent.plans import FLOWERS, endless, job_of
from tests.edge_agent.processes import (
    gone,
    wait_children,
    wait_gone,
    wait_handling_sigterm,
    wait_training,
)

GRACE = 0.05


def stand_in(program: str) -> tuple[str, ...]:
    """A child that runs `program` in place of a job."""
    return (sys.executable, "-c", program)


IGNORES_SIGTERM = stand_in(
    "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.pause()"
)
WAITS = stand_in("import signal; signal.pause()")


@pytest.fixture
def job(tmp_path):
    return job_of(FLOWERS, tmp_path)


async def test_a_job_ends_in_a_report_and_an_update(job, tmp_path):
    async with start_child(job, GRACE) as child:
        report = await child.report()
    assert report.outcome is Outcome.DONE
    assert report.steps > 0
    assert await asyncio.to_thread((tmp_path / "a-1.update").exists)
    assert await asyncio.to_thread(gone, child.pid)


async def test_its_memory_is_its_own_and_goes_back(job):
    async with start_child(job, GRACE) as child:
        report = await child.report()
    assert 20e6 < report.peak_bytes < 300e6
    assert await asyncio.to_thread(gone, child.pid)


async def test_the_report_may_be_asked_for_often_and_in_vain(job):
    async with start_child(job, GRACE) as child:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.001):
                    await child.report()
        assert await child.report() == await child.report()


async def test_a_bad_model_file_is_a_report(job, tmp_path):
    job = msgspec.structs.replace(job, model=str(tmp_path / "gone"))
    async with start_child(job, GRACE) as child:
        assert (await child.report()).outcome is Outcome.BAD_PLAN


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("import sys; sys.exit(7)", "exit status 7"),
        ("raise RuntimeError", "exit status 1"),
        ("pass", "its report is unreadable"),
        ("print('hello')", "its report is unreadable"),
        ("""print('{"outcome":"fine"}')""", "its report is unreadable"),
        ("print('x' * 3_000_000)", "its report is unreadable"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL: out of memory?"),
        ("import os; os.kill(os.getpid(), 4)", "killed by SIGILL: a processor too old?"),
        ("import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 40)", "killed by signal 40"),
    ],
)
async def test_a_child_that_crashes_is_a_report(job, program, why, capfd):
    async with start_child(job, GRACE, stand_in(program)) as child:
        report = await child.report()
    assert report.outcome is Outcome.CRASHED
    assert report.detail.startswith(why)


async def test_a_child_that_cannot_be_started_is_an_os_error(job):
    with pytest.raises(OSError, match="no-such-program"):
        async with start_child(job, GRACE, ("/no-such-program",)):
            pass


async def test_a_child_is_told_who_its_parent_is(job):
    program = (
        "import json, sys; job = json.load(sys.stdin); "
        'print(json.dumps({"outcome": "done", "detail": sys.argv[-1] + job["plan"]}))'
    )
    async with start_child(job, GRACE, stand_in(program)) as child:
        assert (await child.report()).detail == f"{os.getpid()}{FLOWERS}"


@pytest.mark.parametrize("why", [Outcome.PREEMPTED, Outcome.OUT_OF_TIME])
async def test_a_stop_ends_training_after_the_running_batch(job, tmp_path, why):
    """The real worker, with more to do than there is time for."""
    plan = await asyncio.to_thread(endless, tmp_path / "plan")
    job = msgspec.structs.replace(job, plan=str(plan))
    async with start_child(job, 30.0) as child:
        await asyncio.to_thread(wait_training, child.pid)
        await child.stop(why)
        report = await child.report()
    assert report.outcome is why
    assert report.metrics is not None  # it ended by itself, and said what it knew
    assert not await asyncio.to_thread((tmp_path / "a-1.update").exists)


@pytest.mark.skipif(
    os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_NICE)[0] < 20,
    reason="only a service that may do so (LimitNICE=+0)",
)
async def test_a_child_that_is_to_end_no_longer_waits_for_all_others(job):
    """On a busy machine it would end long after the grace, its training lost."""
    program = (
        "import json, os, signal, sys, time\n"
        "def told(*_):\n"
        "    time.sleep(0.2)\n"
        "    place = [os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)]\n"
        "    print(json.dumps({'outcome': 'preempted', 'detail': str(place)}))\n"
        "    sys.exit()\n"
        "from edge_agent import limits\n"
        "limits.be_a_guest()\n"
        "signal.signal(signal.SIGTERM, told)\n"
        "signal.pause()"
    )
    async with start_child(job, 10.0, stand_in(program)) as child:
        await asyncio.to_thread(wait_handling_sigterm, child.pid)
        await child.stop(Outcome.PREEMPTED)
        report = await child.report()
    assert report.detail == str([os.SCHED_OTHER, 0])


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.3])
async def test_a_stop_at_any_moment_is_prompt(job, tmp_path, delay):
    """Also while it starts, imports, reads and evaluates."""
    plan = await asyncio.to_thread(endless, tmp_path / "plan")
    job = msgspec.structs.replace(job, plan=str(plan), checkpoint=str(tmp_path / "kept"))
    async with start_child(job, 30.0) as child:
        await asyncio.sleep(delay)
        begun = time.monotonic()
        await child.stop(Outcome.PREEMPTED)
        assert time.monotonic() - begun < 5.0
        report = await child.report()
    assert report.outcome is Outcome.PREEMPTED
    assert report.detail == ""
    assert await asyncio.to_thread((tmp_path / "kept").exists) is (report.steps > 0)
    assert not await asyncio.to_thread((tmp_path / "a-1.update").exists)


async def test_a_stopped_training_goes_on_in_another_child(job, tmp_path):
    """Stopped by its agent, which was told to end itself: `start_child` was left."""
    plan = await asyncio.to_thread(endless, tmp_path / "plan")
    job = msgspec.structs.replace(job, plan=str(plan), checkpoint=str(tmp_path / "kept"))
    async with start_child(job, 30.0) as child:
        await asyncio.to_thread(wait_training, child.pid)
    first = await child.report()
    async with start_child(job, 30.0) as child:
        await asyncio.to_thread(wait_training, child.pid)
        await child.stop(Outcome.PREEMPTED)
        second = await child.report()
    assert 0 < first.steps == second.resumed_at < second.steps
    assert first.seconds < second.seconds


async def test_why_a_training_could_not_be_kept_is_told(job, tmp_path):
    plan = await asyncio.to_thread(endless, tmp_path / "plan")
    job = msgspec.structs.replace(job, plan=str(plan), checkpoint="/nowhere/kept")
    async with start_child(job, 30.0) as child:
        await asyncio.to_thread(wait_training, child.pid)
        await child.stop(Outcome.PREEMPTED)
        report = await child.report()
    assert report.outcome is Outcome.PREEMPTED
    assert report.detail.startswith("the training cannot be kept: ")


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGKILL, "killed by SIGKILL: out of memory?"),
        (signal.SIGSEGV, "killed by SIGSEGV"),
        (signal.SIGILL, "killed by SIGILL: a processor too old?"),
        (signal.SIGABRT, "killed by SIGABRT: out of memory?"),
        (signal.SIGBUS, "killed by SIGBUS"),
        (signal.SIGSYS, "killed by SIGSYS: a system call that the service may not make?"),
    ],
)
async def test_a_training_that_dies_is_a_report(job, tmp_path, number, why):
    plan = await asyncio.to_thread(endless, tmp_path / "plan")
    job = msgspec.structs.replace(job, plan=str(plan))
    async with start_child(job, GRACE) as child:
        await asyncio.to_thread(wait_training, child.pid)
        os.kill(child.pid, number)
        report = await child.report()
    assert report == Report(outcome=Outcome.CRASHED, detail=why)


async def test_a_training_that_dies_after_it_was_told_to_stop_has_crashed(job):
    """It would do so each time, and never rest."""
    program = (
        "import os, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGSEGV))\n"
        "signal.pause()"
    )
    async with start_child(job, 10.0, stand_in(program)) as child:
        await asyncio.to_thread(wait_handling_sigterm, child.pid)
        await child.stop(Outcome.PREEMPTED)
        report = await child.report()
    assert report == Report(outcome=Outcome.CRASHED, detail="killed by SIGSEGV")


async def test_a_sigterm_that_is_not_the_agent_s_is_a_crash(job):
    async with start_child(job, GRACE, WAITS) as child:
        os.kill(child.pid, signal.SIGTERM)
        report = await child.report()
    assert report == Report(outcome=Outcome.CRASHED, detail="killed by SIGTERM")


async def test_a_job_that_does_not_fit_its_memory_limit_is_a_report(job, tmp_path):
    job = msgspec.structs.replace(job, memory_limit=5_000_000)
    async with start_child(job, GRACE) as child:
        report = await child.report()
    assert report.outcome is Outcome.OUT_OF_MEMORY
    assert report.detail.startswith("the memory limit of 5.0 MB is too small: numpy and ONNX")
    assert not await asyncio.to_thread((tmp_path / "a-1.update").exists)


async def test_a_job_that_fits_its_memory_limit_is_done(job):
    job = msgspec.structs.replace(job, memory_limit=100_000_000)
    async with start_child(job, GRACE) as child:
        assert (await child.report()).outcome is Outcome.DONE


async def test_a_training_child_is_a_guest(job, tmp_path):
    plan = await asyncio.to_thread(endless, tmp_path / "plan")
    job = msgspec.structs.replace(job, plan=str(plan), threads=2, memory_limit=100_000_000)
    async with start_child(job, GRACE) as child:
        await asyncio.to_thread(wait_training, child.pid)
        found = await asyncio.to_thread(place_of, child.pid)
    assert found["threads"] == 2
    assert found["classes"] == {os.SCHED_IDLE}
    assert found["nice"] == {19}
    assert found["disk"] == psutil.IOPRIO_CLASS_IDLE
    assert found["core"] == (0, 0)
    assert 100_000_000 < found["data"] < 300_000_000
    assert found["oom"] == 1000


def place_of(pid: int) -> dict[str, object]:
    """What a process may take from others."""
    process = psutil.Process(pid)
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    return {
        "threads": len(threads),
        "classes": {os.sched_getscheduler(thread) for thread in threads},
        "nice": {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads},
        "disk": process.ionice().ioclass,
        "core": process.rlimit(psutil.RLIMIT_CORE),
        "data": process.rlimit(psutil.RLIMIT_DATA)[0],
        "oom": int(Path(f"/proc/{pid}/oom_score_adj").read_text()),
    }


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(job):
    async with start_child(job, GRACE, IGNORES_SIGTERM) as child:
        await asyncio.to_thread(wait_handling_sigterm, child.pid)
        begun = time.monotonic()
        await child.stop(Outcome.PREEMPTED)
        assert GRACE <= time.monotonic() - begun < 5
        report = await child.report()
    assert report == Report(outcome=Outcome.PREEMPTED)
    assert await asyncio.to_thread(gone, child.pid)


async def test_a_stop_of_a_child_that_has_ended_changes_nothing(job):
    program = """print('{"outcome":"diverged","detail":"too fast"}')"""
    async with start_child(job, GRACE, stand_in(program)) as child:
        before = await child.report()
        await child.stop(Outcome.PREEMPTED)
        assert await child.report() == before
    assert before.outcome is Outcome.DIVERGED


async def test_a_child_that_is_done_when_it_is_told_to_stop_is_done(job):
    """It had written its update: to say anything else would train it again."""
    program = (
        "import signal, sys\n"
        "def done(*_):\n"
        """    print('{"outcome":"done","steps":3}')\n"""
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, done)\n"
        "signal.pause()"
    )
    async with start_child(job, 10.0, stand_in(program)) as child:
        await asyncio.to_thread(wait_handling_sigterm, child.pid)
        await child.stop(Outcome.PREEMPTED)
        report = await child.report()
    assert report == Report(outcome=Outcome.DONE, steps=3)


async def test_leaving_the_block_ends_the_child_whatever_happens(job):
    with pytest.raises(ZeroDivisionError):
        async with start_child(job, GRACE, WAITS) as child:
            raise ZeroDivisionError
    assert await asyncio.to_thread(gone, child.pid)


async def test_cancelling_ends_the_child(job):
    started = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with start_child(job, GRACE, WAITS) as child:
            started.set_result(child.pid)
            await child.report()

    task = asyncio.create_task(work())
    pid = await started
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(gone, pid)


async def test_who_cancels_twice_does_not_wait_for_the_grace(job):
    started = asyncio.get_running_loop().create_future()

    async def work() -> None:
        async with start_child(job, 60.0, IGNORES_SIGTERM) as child:
            started.set_result(child.pid)
            await child.report()

    task = asyncio.create_task(work())
    pid = await started
    await asyncio.to_thread(wait_handling_sigterm, pid)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not await asyncio.to_thread(gone, pid)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(gone, pid)


AGENT = """
import asyncio, sys
import msgspec
from edge_agent.child import start_child
from edge_agent.job import Job
job = msgspec.json.decode(sys.argv[1], type=Job)
async def main():
    async with start_child(job, 10.0) as child:
        print(child.pid, flush=True)
        await child.report()
asyncio.run(main())
"""


def test_the_child_dies_with_an_agent_that_is_killed(job, tmp_path):
    job = msgspec.structs.replace(job, plan=str(endless(tmp_path / "plan")))
    words = [sys.executable, "-c", AGENT, msgspec.json.encode(job).decode()]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as agent:
        try:
            pid = int(agent.stdout.readline())
            wait_training(pid)
        finally:
            agent.kill()
        wait_gone(pid)


def test_a_child_whose_agent_is_gone_already_does_nothing(job):
    words = [sys.executable, "-m", "edge_agent.worker", "1"]
    ended = subprocess.run(
        words, input=msgspec.json.encode(job), capture_output=True, timeout=20, check=False
    )
    assert ended.returncode == 1
    assert b"the agent is gone" in ended.stderr
    assert not ended.stdout


async def test_what_holds_the_childs_pipe_does_not_hold_the_agent(job, monkeypatch, caplog):
    """As would a child that waits for a dead disk: it cannot be waited for."""
    monkeypatch.setattr("edge_agent.child._REAP_SECONDS", 0.2)
    program = (
        "import signal, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(20)'])\n"
        "signal.pause()"
    )
    async with asyncio.timeout(15):
        async with start_child(job, 1.0, stand_in(program)) as child:
            await asyncio.to_thread(wait_children, child.pid)
            await child.stop(Outcome.PREEMPTED)
            report = await child.report()
    assert report.outcome is Outcome.CRASHED
    assert "could not be killed" in report.detail
    assert "cannot be killed" in caplog.text
