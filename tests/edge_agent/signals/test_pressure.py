"""Who waits for a disk or memory, and whether it is us."""

import pytest

from edge_agent.signals.pressure import PressureProbe
from tests.edge_agent.signals.tree import Tree, eligibility

CONFIG = eligibility(max_io_pressure=20, max_memory_pressure=10)
SERVICE = "sys/fs/cgroup/system.slice/edge-agent.service"
AGENT, CHILD = 1000, 1001


def told(avg10: float) -> str:
    return (
        f"some avg10={avg10:.2f} avg60=99.00 avg300=99.00 total=99\n"
        "full avg10=99.00 avg60=99.00 avg300=99.00 total=99"
    )


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def service(tree):
    """A machine on which the agent is a service that trains, and waits a lot."""
    tree.put_all("proc/pressure", io=told(80), memory=told(5))
    tree.put("proc/self/cgroup", "1:name=systemd:/other\n0::/system.slice/edge-agent.service")
    tree.put("proc/self/stat", f"{AGENT} (edge-agent) S 1")
    tree.put("sys/fs/cgroup/cgroup.controllers", "cpu io memory")
    tree.put(f"{SERVICE}/cgroup.procs", f"{AGENT}\n{CHILD}")
    for cgroup, waits in (
        (SERVICE, 80),
        ("sys/fs/cgroup/system.slice", 80),
        ("sys/fs/cgroup/system.slice/database.service", 4),
        ("sys/fs/cgroup/user.slice", 6),
    ):
        tree.put(f"{cgroup}/io.pressure", told(waits))
        tree.put(f"{cgroup}/memory.pressure", told(0))
    return tree


def look(tree, children=()):
    return PressureProbe(CONFIG, lambda: children).look(tree.system)


def test_a_kernel_that_does_not_tell_is_no_reason(tree):
    found = look(tree)
    assert (found.name, found.ok, found.code) == ("pressure", True, "ok")
    assert "does not tell" in found.observed


def test_a_kernel_whose_pressure_is_off_is_no_reason(tree):
    tree.put_all("proc/pressure", io="", memory="")
    assert look(tree).ok


@pytest.mark.parametrize(
    ("io", "memory", "code"),
    [
        (20, 10, "ok"),
        (20.01, 0, "io_pressure"),
        (0, 10.5, "memory_pressure"),
        (100, 100, "io_pressure"),
    ],
)
def test_each_pressure_has_its_reason(tree, io, memory, code):
    tree.put_all("proc/pressure", io=told(io), memory=told(memory))
    found = look(tree)
    assert (found.code, found.ok) == (code, code == "ok")
    assert "waited" in found.observed


def test_one_pressure_that_is_told_is_enough(tree):
    tree.put("proc/pressure/memory", told(50))
    assert look(tree).code == "memory_pressure"


def test_our_own_waits_do_not_end_our_work(service):
    found = look(service, [CHILD])
    assert found.ok
    assert "10 % for a disk" in found.observed


@pytest.mark.parametrize("other", ["system.slice/database.service", "user.slice"])
def test_others_that_wait_do(service, other):
    service.put(f"sys/fs/cgroup/{other}/io.pressure", told(30))
    assert look(service, [CHILD]).code == "io_pressure"


def test_many_that_wait_a_little_count_together(service):
    for number in range(3):
        service.put(f"sys/fs/cgroup/system.slice/{number}.service/io.pressure", told(5))
    assert look(service, [CHILD]).code == "io_pressure"


def test_memory_is_told_apart_like_the_disk(service):
    service.put("proc/pressure/memory", told(50))
    assert look(service, [CHILD]).ok
    service.put("sys/fs/cgroup/user.slice/memory.pressure", told(50))
    assert look(service, [CHILD]).code == "memory_pressure"


def test_in_a_cgroup_with_others_the_waits_cannot_be_told_apart(service):
    assert look(service, []).code == "io_pressure"  # the second process is a stranger


@pytest.mark.parametrize("cgroup", ["0::/../outside", "1:cpu:/", "0::/"])
def test_without_a_cgroup_of_our_own_the_machine_is_believed(service, cgroup):
    service.put("proc/self/cgroup", cgroup)
    assert look(service, [CHILD]).code == "io_pressure"


def test_where_cgroups_do_not_tell_the_machine_is_believed(service):
    for file in (service.root / "sys/fs/cgroup").rglob("io.pressure"):
        file.unlink()
    assert look(service, [CHILD]).code == "io_pressure"
