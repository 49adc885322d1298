"""Free memory: the machine's, our cgroup's, and what training holds."""

from resource import getpagesize

import pytest

from edge_agent.signals.memory import MemoryProbe
from tests.edge_agent.signals.tree import Tree, eligibility

CONFIG = eligibility(min_memory="100 MB")
CGROUPS = "sys/fs/cgroup"
PID = 4711


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def look(tree, *children):
    return MemoryProbe(CONFIG, lambda: children).look(tree.system)


def machine(tree, megabytes):
    """So much is available."""
    kilobytes = megabytes * 1000**2 // 1024
    tree.put("proc/meminfo", f"MemTotal: 999 kB\nMemFree: 1 kB\nMemAvailable: {kilobytes} kB")


def service(tree, folder, limit, current, **stat):
    """A cgroup of ours with a limit, in MB."""
    tree.put("proc/self/cgroup", "0::/system.slice/edge-agent.service")
    tree.put(f"{CGROUPS}/cgroup.controllers", "memory")
    text = limit if limit == "max" else limit * 1000**2
    tree.put(f"{CGROUPS}/{folder}/memory.max", text)
    tree.put(f"{CGROUPS}/{folder}/memory.current", current * 1000**2)
    lines = [f"{name} {size * 1000**2}" for name, size in stat.items()]
    tree.put(f"{CGROUPS}/{folder}/memory.stat", "\n".join(["anon 5", *lines]))


def child(tree, megabytes, of_files=0):
    """A training child that holds so much."""
    page = getpagesize()
    held, files = (m * 1000**2 // page for m in (megabytes + of_files, of_files))
    tree.put(f"proc/{PID}/statm", f"99999 {held} {files} 1 0 1 0")


def test_a_kernel_that_does_not_tell_is_no_reason(tree):
    found = look(tree)
    assert (found.name, found.ok, found.code) == ("memory", True, "ok")


@pytest.mark.parametrize(
    ("megabytes", "code"), [(101, "ok"), (99, "memory_low"), (0, "memory_low")]
)
def test_the_machine_may_have_too_little(tree, megabytes, code):
    machine(tree, megabytes)
    found = look(tree)
    assert (found.code, found.ok) == (code, code == "ok")
    assert "free" in found.observed


@pytest.mark.parametrize("folder", ["system.slice/edge-agent.service", "system.slice"])
def test_a_limit_of_a_cgroup_above_us_counts(tree, folder):
    machine(tree, 4000)
    service(tree, folder, limit=200, current=120)
    assert look(tree).code == "memory_low"


def test_cached_files_of_our_cgroup_are_free(tree):
    machine(tree, 4000)
    service(tree, "system.slice", 200, 120, inactive_file=15, active_file=10)
    found = look(tree)
    assert found.ok
    assert "105 MB free" in found.observed


def test_a_cgroup_without_a_limit_does_not_count(tree):
    machine(tree, 4000)
    service(tree, "system.slice/edge-agent.service", limit="max", current=3999)
    assert look(tree).ok


def test_a_hybrid_hierarchy_has_its_cgroups_elsewhere(tree):
    machine(tree, 4000)
    tree.put("proc/self/cgroup", "4:memory:/\n0::/")
    tree.put_all(f"{CGROUPS}/unified", **{"cgroup.controllers": ""})
    tree.put_all(f"{CGROUPS}/unified", **{"memory.max": 50_000_000, "memory.current": 0})
    assert look(tree).code == "memory_low"


def test_a_cgroup_out_of_our_sight_does_not_count(tree):
    machine(tree, 4000)
    service(tree, "../outside", limit=0, current=0)
    tree.put("proc/self/cgroup", "0::/../outside")
    assert look(tree).ok


def test_a_limit_that_was_passed_leaves_nothing(tree):
    service(tree, "system.slice", limit=100, current=120)
    assert look(tree).observed.startswith("0 B free")


def test_what_training_holds_does_not_end_it(tree):
    machine(tree, 40)
    assert look(tree).code == "memory_low"
    child(tree, 70)
    found = look(tree, PID)
    assert found.ok
    assert "70 MB in training" in found.observed


def test_pages_of_files_are_not_what_training_holds(tree):
    machine(tree, 40)
    child(tree, 50, of_files=40)
    assert look(tree, PID).code == "memory_low"


def test_a_rest_must_be_left_while_training(tree):
    child(tree, 500)
    machine(tree, 24)
    assert look(tree, PID).code == "memory_low"
    machine(tree, 26)
    assert look(tree, PID).ok


def test_a_child_that_is_gone_holds_nothing(tree):
    machine(tree, 101)
    assert look(tree, PID).ok
