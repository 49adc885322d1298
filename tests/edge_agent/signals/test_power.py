"""Power: by UPower on a real bus, by a fake sysfs, by what psutil gives."""

import asyncio
from types import SimpleNamespace

import pytest

from edge_agent.config import parse
from edge_agent.signals.power import PowerProbe, Supplied, from_psutil, judge
from edge_agent.signals.system import System
from tests.edge_agent.signals.dbus import BATTERY, UPOWER
from tests.edge_agent.signals.watching import comes, config, watch


@pytest.fixture
def upower(desktop):
    desktop.update(UPOWER, OnBattery=("b", False))
    desktop.update(BATTERY, IsPresent=("b", False), Percentage=("d", 0.0))
    return desktop


def look(machine, more="min_battery = 0"):
    return PowerProbe(config(machine.root, more=more)).look(System(machine.root, machine.root))


def told(machine):
    """Code and text, without a threshold."""
    signal = look(machine)
    assert signal.code == "ok" or signal.code in PowerProbe.codes
    return signal.code, signal.observed


# UPower


async def test_upower_tells_of_mains_and_battery_as_they_change(upower, machine):
    wanted = config(machine.root, upower.address)
    async with watch(wanted, PowerProbe(wanted)) as watched:
        await comes(watched, "ok", "on mains, no battery")
        await asyncio.to_thread(upower.update, UPOWER, OnBattery=("b", True))
        await comes(watched, "on_battery")
        await asyncio.to_thread(
            upower.update, BATTERY, IsPresent=("b", True), Percentage=("d", 42.0)
        )
        await comes(watched, "on_battery", "battery at 42 %")
        await asyncio.to_thread(upower.update, UPOWER, OnBattery=("b", False))
        await comes(watched, "battery_low", "battery at 42 %, at least 50 % wanted")
        await asyncio.to_thread(upower.update, BATTERY, Percentage=("d", 50.0))
        await comes(watched, "ok", "on mains, battery at 50 %")


async def test_upower_is_believed_over_sysfs(upower, machine):
    await asyncio.to_thread(machine.supply, "AC", type="Mains", online=0)
    wanted = config(machine.root, upower.address)
    async with watch(wanted, PowerProbe(wanted)) as watched:
        await comes(watched, "ok", "on mains, no battery")


async def test_what_upower_tells_in_another_type_is_not_told(upower, machine):
    await asyncio.to_thread(machine.supply, "AC", type="Mains", online=0)
    wanted = config(machine.root, upower.address)
    async with watch(wanted, PowerProbe(wanted)) as watched:
        await comes(watched, "ok", "on mains")
        await asyncio.to_thread(upower.update, UPOWER, OnBattery=("s", "no"))
        await comes(watched, "on_battery", "no battery")  # as sysfs has it
        await asyncio.to_thread(upower.update, UPOWER, OnBattery=("as", ["no"]))
        await asyncio.to_thread(upower.update, UPOWER, OnBattery=("b", False))
        await comes(watched, "ok", "on mains")


async def test_a_battery_without_a_sane_charge_counts_as_empty(upower, machine):
    wanted = config(machine.root, upower.address)
    nan = float("nan")
    async with watch(wanted, PowerProbe(wanted)) as watched:
        await asyncio.to_thread(
            upower.update, BATTERY, IsPresent=("b", True), Percentage=("d", nan)
        )
        await comes(watched, "battery_low", "battery at 0 %")


async def test_on_a_battery_that_upower_shows_none_of_it_counts_as_empty(upower, machine):
    wanted = config(machine.root, upower.address, 'power = "any"')
    async with watch(wanted, PowerProbe(wanted)) as watched:
        await asyncio.to_thread(upower.update, UPOWER, OnBattery=("b", True))
        await comes(watched, "battery_low", "battery at 0 %")


# sysfs


def test_a_machine_without_any_supply_runs_on_mains(machine):
    assert told(machine) == ("ok", "on mains, no battery")


def test_a_machine_without_sysfs_runs_on_mains(tmp_path):
    signal = PowerProbe(parse("")).look(System(tmp_path, tmp_path))
    assert signal == ("power", True, "ok", "on mains, no battery")


@pytest.mark.parametrize(
    ("online", "expected"),
    [(1, ("ok", "on mains, battery at 80 %")), (0, ("on_battery", "battery at 80 %"))],
)
def test_an_adapter_says_whether_there_is_power(machine, online, expected):
    machine.supply("AC", type="Mains", online=online)
    machine.supply("BAT0", type="Battery", capacity=80, status="Unknown")
    assert told(machine) == expected


def test_an_adapter_without_power_is_believed_without_a_battery_too(machine):
    machine.supply("AC", type="Mains", online=0)
    assert told(machine) == ("on_battery", "no battery")


def test_an_unused_usb_port_of_a_desktop_does_not_say_that_it_has_no_power(machine):
    machine.supply("ucsi-source-psy-1", type="USB", online=0)
    assert told(machine) == ("ok", "on mains, no battery")


@pytest.mark.parametrize("online", [1, 2])
def test_usb_powers_a_phone_by_a_fixed_or_a_programmable_supply(machine, online):
    machine.supply("usb", type="USB", online=online)
    machine.supply("battery", type="Battery", capacity=71, status="Charging")
    assert told(machine) == ("ok", "on mains, battery at 71 %")


def test_one_of_several_supplies_is_enough(machine):
    machine.supply("AC", type="Mains", online=0)
    machine.supply("pad", type="Wireless", online=1)
    machine.supply("BAT0", type="Battery", capacity=50, status="Charging")
    assert told(machine) == ("ok", "on mains, battery at 50 %")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("Charging", "ok"),
        ("Full", "ok"),
        ("Not charging", "ok"),
        ("Discharging", "on_battery"),
        ("Unknown", "power_unknown"),
        ("", "power_unknown"),
    ],
)
def test_a_battery_alone_tells_by_its_status(machine, status, code):
    machine.supply("BAT0", type="Battery", capacity=64, status=status)
    assert told(machine)[0] == code
    assert "battery at 64 %" in told(machine)[1]


def test_the_weakest_of_several_batteries_counts(machine):
    machine.supply("BAT0", type="Battery", capacity=90, status="Full")
    machine.supply("BAT1", type="Battery", capacity=12, status="Discharging")
    assert told(machine) == ("on_battery", "battery at 12 %")


def test_the_battery_of_a_mouse_does_not_count(machine):
    machine.supply(
        "hidpp_battery_0", type="Battery", scope="Device", capacity=5, status="Discharging"
    )
    assert told(machine) == ("ok", "on mains, no battery")


def test_an_empty_battery_bay_does_not_count(machine):
    machine.supply("BAT1", type="Battery", present=0, status="Unknown")
    assert told(machine) == ("ok", "on mains, no battery")


def test_an_uninterruptible_supply_is_a_battery(machine):
    machine.supply("ups", type="UPS", capacity=95, status="Discharging")
    assert told(machine) == ("on_battery", "battery at 95 %")


@pytest.mark.parametrize("measure", ["energy", "charge"])
def test_a_charge_is_worked_out_where_no_percentage_is_told(machine, measure):
    files = {f"{measure}_now": 30_000, f"{measure}_full": 40_000}
    machine.supply("BAT0", type="Battery", status="Charging", **files)
    assert told(machine) == ("ok", "on mains, battery at 75 %")


@pytest.mark.parametrize("files", [{}, {"capacity": "?"}, {"energy_now": 1, "energy_full": 0}])
def test_a_battery_that_tells_no_charge_counts_as_empty(machine, files):
    machine.supply("BAT0", type="Battery", status="Charging", **files)
    assert look(machine, "").code == "battery_low"


# The owner's wishes


@pytest.mark.parametrize("on_mains", [False, None])
def test_any_power_will_do_when_the_owner_says_so(on_mains):
    allowed = parse('[eligibility]\npower = "any"\n')
    assert judge(Supplied(on_mains, 80.0), allowed).ok
    assert judge(Supplied(on_mains, None), allowed).ok
    assert judge(Supplied(on_mains, 49.9), allowed).code == "battery_low"


@pytest.mark.parametrize(("charge", "code"), [(100.0, "ok"), (50.0, "ok"), (49.0, "battery_low")])
def test_a_battery_must_hold_enough_on_mains_too(charge, code):
    assert judge(Supplied(True, charge), parse("")).code == code


# psutil


@pytest.mark.parametrize("plugged", [True, False, None])
def test_other_systems_tell_by_psutil(plugged):
    battery = SimpleNamespace(percent=73.0, secsleft=100, power_plugged=plugged)
    assert from_psutil(battery) == Supplied(plugged, 73.0)


def test_other_systems_without_a_battery_run_on_mains():
    assert from_psutil(None) == Supplied(True, None)
