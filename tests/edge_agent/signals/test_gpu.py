"""The load of graphics processors, driver by driver."""

import pytest

from edge_agent.signals.gpu import GpuProbe
from tests.edge_agent.signals.tree import Tree, eligibility

CARD = "sys/class/drm/card0/device"


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def look(tree):
    probe = GpuProbe(eligibility(max_gpu_busy=30))
    return lambda: probe.look(tree.system)


def test_a_machine_without_a_graphics_processor_is_fine(look):
    found = look()
    assert (found.name, found.ok, found.code) == ("gpu", True, "ok")


@pytest.mark.parametrize(("percent", "code"), [(30, "ok"), (31, "gpu_busy")])
def test_amdgpu_tells_percent(tree, look, percent, code):
    tree.put(f"{CARD}/gpu_busy_percent", percent)
    found = look()
    assert (found.code, found.ok) == (code, code == "ok")
    assert f"{percent} %" in found.observed


def test_the_busiest_counts(tree, look):
    tree.put(f"{CARD}/gpu_busy_percent", 0)
    tree.put("sys/class/drm/card1/device/gpu_busy_percent", 99)
    assert look().code == "gpu_busy"


def test_a_screen_is_no_card(tree, look):
    tree.put("sys/class/drm/card0-HDMI-A-1/device/gpu_busy_percent", 99)
    assert look().ok


def test_a_card_that_sleeps_is_not_woken(tree, look):
    tree.put_all(CARD, gpu_busy_percent=99, **{"power/runtime_status": "suspended"})
    assert look().ok
    tree.put(f"{CARD}/power/runtime_status", "active")
    assert look().code == "gpu_busy"


def v3d(moment: int, **worked: int) -> str:
    lines = [f"{name}\t{moment}\t7\t{time}" for name, time in worked.items()]
    return "\n".join(["queue\ttimestamp\tjobs\truntime", *lines])


@pytest.mark.parametrize(("worked", "code"), [(300, "ok"), (400, "gpu_busy")])
def test_a_raspberry_pi_tells_between_two_looks(tree, look, worked, code):
    tree.put(f"{CARD}/gpu_stats", v3d(1000, bin=500, render=900))
    assert look().ok
    tree.put(f"{CARD}/gpu_stats", v3d(2000, bin=510, render=900 + worked))
    assert look().code == code


def test_a_second_look_at_the_same_moment_tells_nothing(tree, look):
    tree.put(f"{CARD}/gpu_stats", v3d(1000, bin=500))
    look()
    assert look().ok


@pytest.mark.parametrize(
    ("load", "code"), [("12@300000000Hz", "ok"), ("88@800000000Hz", "gpu_busy")]
)
def test_mali_tells_its_load(tree, look, load, code):
    tree.put("sys/class/devfreq/fb000000.gpu/load", load)
    assert look().code == code


def test_the_memory_bus_is_no_graphics_processor(tree, look):
    tree.put("sys/class/devfreq/dmc/load", "99@2400000000Hz")
    assert look().ok


@pytest.mark.parametrize("said", ["", "busy", "-1", "queue"])
def test_what_cannot_be_read_tells_nothing(tree, look, said):
    tree.put(f"{CARD}/gpu_stats", f"queue timestamp jobs runtime\n{said}\na b c d")
    tree.put(f"{CARD}/gpu_busy_percent", "busy")
    tree.put("sys/class/devfreq/mali/load", said)
    assert look().ok
