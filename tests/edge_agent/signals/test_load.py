"""The load of others. Real children burn a bounded time of processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.signals.load import LoadProbe, busy, read
from edge_agent.signals.system import System
from tests.edge_agent.signals.tree import Tree, eligibility

PID = 4711


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


class Account:
    """A machine of two processors whose account a test writes, in hundredths of a second."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.others = self.own = self.reaped = self.child = self.idle = self.waiting = 0
        self.write()

    def write(self, **more: int) -> None:
        for name, ticks in more.items():
            setattr(self, name, getattr(self, name) + ticks)
        used = self.others + self.own + self.reaped + self.child
        # user nice system idle iowait irq softirq steal guest guest_nice
        cpu = f"{used} 0 0 {self.idle} {self.waiting} 0 0 0 {used} 0"
        self.tree.put("proc/stat", f"cpu  {cpu}\ncpu0 {cpu}\ncpu1 {cpu}\nintr 1 2 3")
        self.tree.put("proc/self/stat", self._process(1000, self.own, self.reaped))
        self.tree.put(f"proc/{PID}/stat", self._process(PID, self.child, 0))

    def _process(self, pid: int, used: int, reaped: int) -> str:
        return f"{pid} (a (name) ) S 1 1 1 0 -1 4194304 1 0 0 0 {used} 0 {reaped} 0 20 0 1 0 99 1 1"


def test_the_first_look_measures(tree):
    Account(tree)
    found = LoadProbe(eligibility()).look(tree.system)
    assert (found.name, found.ok, found.code) == ("load", False, "load_unknown")


def test_a_kernel_that_does_not_tell_the_load_is_no_reason(tree):
    probe = LoadProbe(eligibility())
    assert [probe.look(tree.system).code for _ in range(2)] == ["ok"] * 2


@pytest.mark.parametrize(("used", "code"), [(30, "ok"), (31, "busy"), (100, "busy")])
def test_others_use_the_processor(tree, used, code):
    account, probe = Account(tree), LoadProbe(eligibility(max_busy=30))
    probe.look(tree.system)
    account.write(others=used, idle=100 - used)
    found = probe.look(tree.system)
    assert (found.code, found.ok) == (code, code == "ok")
    assert f"{used} %" in found.observed


def test_a_processor_that_waits_for_a_disk_is_idle(tree):
    account, probe = Account(tree), LoadProbe(eligibility())
    probe.look(tree.system)
    account.write(others=10, waiting=90)
    assert "use 10 %" in probe.look(tree.system).observed


def test_our_own_work_is_not_the_load_of_others(tree):
    account, probe = Account(tree), LoadProbe(eligibility(), lambda: [PID])
    probe.look(tree.system)
    account.write(own=20, child=150, idle=20, others=10)
    assert "use 5 %" in probe.look(tree.system).observed


def test_a_process_that_is_not_told_is_of_others(tree):
    account, probe = Account(tree), LoadProbe(eligibility())
    probe.look(tree.system)
    account.write(child=150, idle=50)
    assert "use 75 %" in probe.look(tree.system).observed


def test_a_child_that_was_reaped_stays_ours(tree):
    children = [PID]
    account, probe = Account(tree), LoadProbe(eligibility(), lambda: children)
    account.write(child=300)
    probe.look(tree.system)
    account.write(child=150, idle=50)
    account.write(reaped=account.child, child=-account.child)
    children.clear()
    assert "use 0 %" in probe.look(tree.system).observed


def test_a_child_that_is_not_told_any_more_and_not_reaped_yet_is_no_load(tree):
    children = [PID]
    account, probe = Account(tree), LoadProbe(eligibility(), lambda: children)
    account.write(child=300)
    probe.look(tree.system)
    account.write(others=20, idle=180)
    probe.look(tree.system)
    children.clear()
    account.write(others=10, idle=90)
    assert "use 10 %" in probe.look(tree.system).observed  # as before
    account.write(others=100, idle=100)
    assert "use 50 %" in probe.look(tree.system).observed


def test_a_look_too_soon_repeats_its_figure(tree):
    account, probe = Account(tree), LoadProbe(eligibility())
    probe.look(tree.system)
    account.write(others=10, idle=90)
    probe.look(tree.system)
    account.write(others=19)  # 0.095 s of two processors
    assert "use 10 %" in probe.look(tree.system).observed
    account.write(others=1)
    assert "use 100 %" in probe.look(tree.system).observed


def test_a_processor_that_was_taken_out_starts_the_measure_anew(tree):
    account, probe = Account(tree), LoadProbe(eligibility())
    account.write(idle=1000)
    probe.look(tree.system)
    account.write(idle=-900)
    assert probe.look(tree.system).code == "load_unknown"
    account.write(idle=100)
    assert probe.look(tree.system).code == "ok"


# The real machine


BURN = """
import hashlib, os, sys, threading, time
def burn(seconds):
    while time.thread_time() < seconds:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 20000)
threads, seconds = int(sys.argv[1]), float(sys.argv[2])
if sys.argv[3] == "idle":
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
workers = [threading.Thread(target=burn, args=(seconds,)) for _ in range(threads)]
for worker in workers: worker.start()
for worker in workers: worker.join()
print(time.process_time(), flush=True)
sys.stdin.read()
"""
TICK = 0.01


@pytest.fixture
def machine(tmp_path):
    return System(Path("/"), tmp_path)


def burner(threads: int, seconds: float, policy: str = "") -> subprocess.Popen:
    """A child that burns so much with each thread, says how much it was, and waits for its end."""
    command = [sys.executable, "-c", BURN, str(threads), str(seconds), policy]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_training_is_ours_whatever_its_threads(machine, threads):
    own, others = read(machine), read(machine)
    with burner(threads, 0.1, "idle") as child:
        burned = float(child.stdout.readline())
        running, unaware = read(machine, [child.pid]), read(machine)
    reaped = read(machine)
    assert burned >= 0.1 * threads
    assert (running.own - own.own) * TICK >= burned - 2 * TICK
    assert (reaped.own - own.own) * TICK >= burned - 2 * TICK
    assert (unaware.own - others.own) * TICK < burned / 2
    assert busy(own, running) < busy(others, unaware)


def test_an_ended_child_that_nobody_reaped_is_ours_still(machine):
    before = read(machine)
    with burner(1, 0.2) as child:
        burned = float(child.stdout.readline())
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        ended = read(machine, [child.pid])
    assert (ended.own - before.own) * TICK >= burned - 2 * TICK
