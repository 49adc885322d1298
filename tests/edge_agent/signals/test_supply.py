"""What a Raspberry Pi's firmware says of its supply."""

import pytest

from edge_agent.signals.supply import SupplyProbe
from tests.edge_agent.signals.tree import Tree, eligibility

FLAGS = "sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


def look(tree, **keys):
    return SupplyProbe(eligibility(**keys)).look(tree.system)


def test_a_machine_whose_firmware_does_not_tell_is_fine(tree):
    found = look(tree)
    assert (found.name, found.ok, found.code) == ("supply", True, "ok")


@pytest.mark.parametrize(
    ("flags", "code", "observed"),
    [
        ("0", "ok", "good"),
        ("0x0", "ok", "good"),
        ("f0000", "ok", "good"),  # all of it has happened, nothing is now
        ("1", "under_voltage", "voltage"),
        ("50005", "under_voltage", "voltage"),
        ("2", "throttled", "capped"),
        ("4", "throttled", "throttled"),
        ("8", "throttled", "temperature"),
        ("e", "throttled", "capped, it is throttled, it is at its soft temperature limit"),
        ("nonsense", "ok", "does not tell"),
    ],
)
def test_the_firmware_tells_what_is_now(tree, flags, code, observed):
    tree.put(FLAGS, flags)
    found = look(tree)
    assert (found.code, found.ok) == (code, code == "ok")
    assert observed in found.observed


@pytest.mark.parametrize(("alarm", "code"), [(0, "ok"), (1, "under_voltage")])
def test_the_kernel_has_an_alarm(tree, alarm, code):
    tree.put_all("sys/class/hwmon/hwmon0", name="cpu_thermal", in0_lcrit_alarm=1)
    tree.put_all("sys/class/hwmon/hwmon1", name="rpi_volt", in0_lcrit_alarm=alarm)
    assert look(tree).code == code


def test_any_supply_will_do_when_the_owner_says_so(tree):
    tree.put(FLAGS, "f")
    assert look(tree, supply="any").ok
    assert not look(tree, supply="good").ok
