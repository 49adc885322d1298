"""Which sensors count, and what they say."""

import pytest

from edge_agent.signals.temperature import TemperatureProbe, hottest
from tests.edge_agent.signals.tree import Tree, eligibility


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def look(tree):
    return TemperatureProbe(eligibility(max_temperature=70)).look(tree.system)


def zone(tree, number, kind, temp):
    tree.put_all(f"sys/class/thermal/thermal_zone{number}", type=kind, temp=temp)


def monitor(tree, number, name, **inputs):
    tree.put_all(f"sys/class/hwmon/hwmon{number}", name=name, **inputs)


def test_a_machine_without_a_sensor_is_fine(tree):
    found = look(tree)
    assert (found.name, found.ok, found.code) == ("temperature", True, "ok")


@pytest.mark.parametrize(("temp", "code"), [(70000, "ok"), (70001, "too_hot"), (99000, "too_hot")])
def test_the_processor_may_be_too_hot(tree, temp, code):
    zone(tree, 0, "cpu-thermal", temp)
    found = look(tree)
    assert (found.code, found.ok) == (code, code == "ok")
    assert "°C" in found.observed


@pytest.mark.parametrize(
    "kind", ["cpu-thermal", "bcm2835_thermal", "soc-thermal", "x86_pkg_temp", "bigcore0-thermal"]
)
def test_sensors_of_a_processor_come_first(tree, kind):
    zone(tree, 0, kind, 50000)
    zone(tree, 1, "PMIC-Die", 100000)  # always says so
    zone(tree, 2, "acpitz", 27800)
    monitor(tree, 0, "coretemp", temp1_input=60000)
    assert hottest(tree.system) == 50.0


def test_the_hottest_of_them_counts(tree):
    zone(tree, 0, "cpu0-thermal", 50000)
    zone(tree, 1, "cpu1-thermal", 55500)
    assert hottest(tree.system) == 55.5


def test_hardware_monitors_come_second(tree):
    zone(tree, 0, "acpitz", 16800)
    monitor(tree, 0, "nvme", temp1_input=80000)
    monitor(tree, 1, "k10temp", temp1_input=45125, temp2_input=47000)
    assert hottest(tree.system) == 47.0


def test_any_zone_comes_last(tree):
    zone(tree, 0, "acpitz", 41000)
    for number, kind in enumerate(("battery", "charger", "iwlwifi_1", "pch_skylake"), 1):
        zone(tree, number, kind, 90000)
    assert hottest(tree.system) == 41.0


@pytest.mark.parametrize("temp", ["-273200", "-40000", "150001", "warm", ""])
def test_a_broken_sensor_says_nothing(tree, temp):
    zone(tree, 0, "cpu-thermal", temp)
    assert hottest(tree.system) is None
    monitor(tree, 0, "cpu_thermal", temp1_input=48000)
    assert hottest(tree.system) == 48.0


def test_frost_is_a_temperature(tree):
    zone(tree, 0, "cpu-thermal", -12500)
    assert hottest(tree.system) == -12.5


def test_a_cooling_device_is_no_zone(tree):
    tree.put_all("sys/class/thermal/cooling_device0", type="cpufreq-cpu0", temp=99000)
    assert hottest(tree.system) is None
