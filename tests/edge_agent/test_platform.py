"""What is read off a machine, over a fake root."""

import os

import pytest

from edge_agent.platform import Platform, facts, runtime_version
from tests.edge_agent.machine import Machine
from wire.messages import Facts
from wire.strict import convert


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def power(machine):
    readings = Platform(machine.root).read()
    return readings.on_mains, readings.battery


def network(machine):
    readings = Platform(machine.root).read()
    return readings.network, readings.interface


# Power


def test_a_machine_without_any_supply_runs_on_mains(machine):
    assert power(machine) == (True, None)


def test_a_machine_without_sysfs_runs_on_mains(tmp_path):
    assert Platform(tmp_path).read().on_mains is True


@pytest.mark.parametrize(("online", "on_mains"), [(1, True), (0, False)])
def test_an_adapter_says_whether_there_is_power(machine, online, on_mains):
    machine.supply("AC", type="Mains", online=online)
    machine.supply("BAT0", type="Battery", capacity=80, status="Unknown")
    assert power(machine) == (on_mains, 80.0)


def test_an_adapter_without_power_is_believed_without_a_battery_too(machine):
    machine.supply("AC", type="Mains", online=0)
    assert power(machine) == (False, None)


def test_an_unused_usb_port_of_a_desktop_does_not_say_that_it_has_no_power(machine):
    machine.supply("ucsi-source-psy-1", type="USB", online=0)
    assert power(machine) == (True, None)


def test_usb_powers_a_phone(machine):
    machine.supply("usb", type="USB", online=1)
    machine.supply("battery", type="Battery", capacity=71, status="Charging")
    assert power(machine) == (True, 71.0)


def test_usb_with_a_programmable_supply_is_power(machine):
    machine.supply("usb", type="USB", online=2)
    machine.supply("battery", type="Battery", capacity=71, status="Charging")
    assert power(machine) == (True, 71.0)


def test_one_of_several_supplies_is_enough(machine):
    machine.supply("AC", type="Mains", online=0)
    machine.supply("pad", type="Wireless", online=1)
    machine.supply("BAT0", type="Battery", capacity=50, status="Charging")
    assert power(machine) == (True, 50.0)


@pytest.mark.parametrize(
    ("status", "on_mains"),
    [
        ("Charging", True),
        ("Full", True),
        ("Not charging", True),
        ("Discharging", False),
        ("Unknown", None),
        ("", None),
    ],
)
def test_a_battery_alone_tells_by_its_status(machine, status, on_mains):
    machine.supply("BAT0", type="Battery", capacity=64, status=status)
    assert power(machine) == (on_mains, 64.0)


def test_the_weakest_of_several_batteries_counts(machine):
    machine.supply("BAT0", type="Battery", capacity=90, status="Full")
    machine.supply("BAT1", type="Battery", capacity=12, status="Discharging")
    assert power(machine) == (False, 12.0)


def test_the_battery_of_a_mouse_does_not_count(machine):
    machine.supply(
        "hidpp_battery_0", type="Battery", scope="Device", capacity=5, status="Discharging"
    )
    assert power(machine) == (True, None)


def test_an_empty_battery_bay_does_not_count(machine):
    machine.supply("BAT1", type="Battery", present=0, status="Unknown")
    assert power(machine) == (True, None)


def test_an_uninterruptible_supply_is_a_battery(machine):
    machine.supply("ups", type="UPS", capacity=95, status="Discharging")
    assert power(machine) == (False, 95.0)


@pytest.mark.parametrize("measure", ["energy", "charge"])
def test_a_charge_is_worked_out_where_no_percentage_is_told(machine, measure):
    files = {f"{measure}_now": 30_000, f"{measure}_full": 40_000}
    machine.supply("BAT0", type="Battery", status="Charging", **files)
    assert power(machine) == (True, 75.0)


@pytest.mark.parametrize("files", [{}, {"capacity": "?"}, {"energy_now": 1, "energy_full": 0}])
def test_a_battery_that_tells_no_charge_counts_as_empty(machine, files):
    machine.supply("BAT0", type="Battery", status="Charging", **files)
    assert power(machine) == (True, 0.0)


# Network


@pytest.mark.parametrize(
    ("interface", "kind"),
    [
        ("eth0", "unmetered"),
        ("enp3s0", "unmetered"),
        ("end0", "unmetered"),
        ("wlan0", "unmetered"),
        ("wlp2s0", "unmetered"),
        ("wwan0", "metered"),
        ("wwp0s20u4", "metered"),
        ("ppp0", "metered"),
        ("usb0", "metered"),
        ("enx0c5b8f279a64", "metered"),
        ("rmnet_data0", "metered"),
        ("tun0", None),
        ("br0", None),
    ],
)
def test_the_interface_tells_the_kind_of_network(machine, interface, kind):
    machine.route(interface)
    assert network(machine) == (kind, interface)


def test_no_default_route_is_no_network(machine):
    machine.route("eth0", destination="0000A8C0", mask="00FFFFFF")
    assert network(machine) == ("none", "")


def test_no_procfs_is_no_network(tmp_path):
    assert Platform(tmp_path).read().network == "none"


def test_the_default_route_with_the_lowest_metric_counts(machine):
    machine.route("wwan0", metric=700)
    machine.route("eth0", metric=100)
    machine.route("wlan0", metric=600)
    assert network(machine) == ("unmetered", "eth0")


def test_half_of_the_internet_is_not_a_default_route(machine):
    machine.route("tun0", metric=0, mask="00000080")
    machine.route("eth0", metric=100)
    assert network(machine) == ("unmetered", "eth0")


def test_a_route_that_refuses_is_no_route(machine):
    machine.route("*", flags="0201")
    machine.route_6("lo", metric=0xFFFFFFFF, flags=0x00200200)
    assert network(machine) == ("none", "")


def test_a_network_without_ipv4_is_a_network(machine):
    machine.route_6("lo", metric=0xFFFFFFFF, flags=0x00200200)
    machine.route_6("wlan0")
    assert network(machine) == ("unmetered", "wlan0")


# Load


def test_the_load_is_known_from_the_second_look_on(machine):
    platform = Platform(machine.root)
    assert platform.read().busy is None
    while (busy := platform.read().busy) is None:
        os.getloadavg()
    assert 0.0 <= busy <= 100.0


# Facts


def test_the_facts_are_a_valid_message():
    found = facts()
    assert convert({f: getattr(found, f) for f in found.__struct_fields__}, Facts) == found
    assert found.cores >= 1
    assert "onnxruntime" in runtime_version()
