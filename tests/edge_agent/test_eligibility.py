"""May the device work? Each signal with each of its reasons."""

import dataclasses
from datetime import UTC, datetime

import pytest

from edge_agent.config import parse
from edge_agent.eligibility import Verdict, judge
from tests.edge_agent.samples import READY

NIGHT = datetime(2026, 3, 4, 2, 30, tzinfo=UTC)
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
DATA = '[data]\nfolder = "/data"\n'


def verdict(config="", now=NIGHT, data=DATA, **changes) -> Verdict:
    return judge(dataclasses.replace(READY, **changes), parse(config + data), now)


def codes(found: Verdict) -> dict[str, str]:
    return {s.name: s.code for s in found.refusals}


def test_a_device_on_mains_idle_and_on_a_free_network_is_eligible():
    found = verdict()
    assert found.eligible
    assert found.may_send
    assert not found.measuring
    assert found.why() == "eligible"
    assert {s.code for s in found.signals} == {"ok"}
    assert all(s.observed for s in found.signals)


@pytest.mark.parametrize(
    ("readings", "signal", "code"),
    [
        ({"on_mains": None}, "power", "power_unknown"),
        ({"on_mains": False}, "power", "on_battery"),
        ({"on_mains": False, "battery": 99.0}, "power", "on_battery"),
        ({"battery": 49.0}, "power", "battery_low"),
        ({"battery": 0.0}, "power", "battery_low"),
        ({"busy": None}, "idle", "load_unknown"),
        ({"busy": 30.5}, "idle", "busy"),
        ({"network": "none", "interface": ""}, "network", "offline"),
        ({"network": "metered"}, "network", "metered"),
        ({"network": None}, "network", "metered"),
    ],
)
def test_each_reading_has_its_reason(readings, signal, code):
    found = verdict(**readings)
    assert codes(found) == {signal: code}
    assert not found.eligible
    assert found.why().startswith(f"{code}: ")
    assert found.may_send is (signal != "network")


@pytest.mark.parametrize("battery", [50.0, 100.0])
def test_a_battery_with_charge_enough_is_fine_on_mains(battery):
    assert verdict(battery=battery).eligible


def test_a_load_at_the_limit_is_fine():
    assert verdict(busy=30.0).eligible


@pytest.mark.parametrize("on_mains", [False, None])
def test_any_power_will_do_when_the_owner_says_so(on_mains):
    config = '[eligibility]\npower = "any"\n'
    assert verdict(config, on_mains=on_mains, battery=80.0).eligible
    assert codes(verdict(config, on_mains=on_mains, battery=20.0)) == {"power": "battery_low"}


@pytest.mark.parametrize("network", ["metered", "none", None, "unmetered"])
def test_any_network_will_do_when_the_owner_says_so(network):
    assert verdict('[eligibility]\nnetwork = "any"\n', network=network).eligible


def test_an_unknown_network_is_taken_as_the_owner_says():
    config = '[eligibility]\nunknown_network = "unmetered"\n'
    assert verdict(config, network=None, interface="br0").eligible
    assert codes(verdict(config, network="metered")) == {"network": "metered"}


def test_a_closed_window_says_when_it_opens():
    found = verdict('schedule = "nightly"\n', now=NOON)
    assert codes(found) == {"window": "window_closed"}
    assert "13 h" in found.why()
    assert found.may_send


def test_an_open_window_is_fine():
    assert verdict('schedule = "nightly"\n', now=NIGHT).eligible


def test_a_device_without_examples_is_not_eligible():
    assert codes(verdict(data="")) == {"data": "no_data"}


def test_a_folder_for_one_task_is_enough():
    assert verdict(data='[data.tasks]\ndigits = "/digits"\n').eligible


def test_all_reasons_are_told_together():
    found = verdict(on_mains=False, busy=99.0, network="none")
    assert codes(found) == {"power": "on_battery", "idle": "busy", "network": "offline"}
    assert [text.partition(":")[0] for text in found.why().split("; ")] == [
        "on_battery",
        "busy",
        "offline",
    ]


def test_it_measures_until_the_load_is_known():
    assert verdict(busy=None).measuring
    assert verdict(busy=None, on_mains=False).measuring
    assert not verdict(busy=99.0).measuring
