"""The network: by NetworkManager on a real bus, by fake routes and interfaces."""

import asyncio

import pytest

from edge_agent.config import parse
from edge_agent.signals.network import NetworkProbe
from edge_agent.signals.system import System
from tests.edge_agent.signals.dbus import NETWORK
from tests.edge_agent.signals.watching import comes, config, watch

YES, NO, GUESS_YES, GUESS_NO = 1, 2, 3, 4
FULL, NONE, PORTAL, LIMITED = 4, 1, 2, 3
GLOBAL, SITE, DISCONNECTED = 70, 60, 20


@pytest.fixture
def manager(desktop):
    desktop.update(NETWORK, Metered=("u", 0), Connectivity=("u", FULL), State=("u", GLOBAL))
    return desktop


def look(machine, more=""):
    signal = NetworkProbe(config(machine.root, more=more)).look(System(machine.root, machine.root))
    return signal.code, signal.observed


# NetworkManager


async def test_networkmanager_tells_whether_a_network_is_metered_as_it_changes(manager, machine):
    await asyncio.to_thread(machine.route, "br0")
    wanted = config(machine.root, manager.address)
    async with watch(wanted, NetworkProbe(wanted)) as watched:
        await comes(watched, "metered", "br0 is of unknown kind, taken as metered")
        for told, code in ((NO, "ok"), (YES, "metered"), (GUESS_NO, "ok"), (GUESS_YES, "metered")):
            await asyncio.to_thread(manager.update, NETWORK, Metered=("u", told))
            kind = "br0 is unmetered" if code == "ok" else "br0 is metered"
            await comes(watched, code, kind)


@pytest.mark.parametrize(("told", "code"), [(NO, "ok"), (GUESS_NO, "metered"), (0, "metered")])
async def test_its_guess_does_not_outdo_a_tethered_phone_but_its_knowledge_does(
    manager, machine, told, code
):
    await asyncio.to_thread(machine.route, "enp0s20u1")
    await asyncio.to_thread(machine.interface, "enp0s20u1", bus="usb", driver="ipheth")
    await asyncio.to_thread(manager.update, NETWORK, Metered=("u", told))
    wanted = config(machine.root, manager.address)
    async with watch(wanted, NetworkProbe(wanted)) as watched:
        await comes(watched, code)


async def test_networkmanager_tells_of_a_captive_portal_and_of_no_way_on(manager, machine):
    await asyncio.to_thread(machine.route, "wlan0")
    wanted = config(machine.root, manager.address)
    async with watch(wanted, NetworkProbe(wanted)) as watched:
        await comes(watched, "ok", "wlan0 is unmetered")
        for told, code in ((PORTAL, "captive_portal"), (LIMITED, "unreachable")):
            await asyncio.to_thread(manager.update, NETWORK, Connectivity=("u", told))
            await comes(watched, code)
        await asyncio.to_thread(manager.update, NETWORK, Connectivity=("u", FULL))
        await comes(watched, "ok")
        await asyncio.to_thread(manager.update, NETWORK, Connectivity=("u", NONE))
        await comes(watched, "unreachable")


@pytest.mark.parametrize(("told", "code"), [(PORTAL, "captive_portal"), (LIMITED, "unreachable")])
async def test_any_network_will_do_but_one_that_leads_nowhere(manager, machine, told, code):
    wanted = config(machine.root, manager.address, 'network = "any"')
    async with watch(wanted, NetworkProbe(wanted)) as watched:
        await comes(watched, "ok")
        await asyncio.to_thread(manager.update, NETWORK, Connectivity=("u", told))
        await comes(watched, code)


async def test_a_connection_that_others_made_is_not_for_networkmanager_to_judge(manager, machine):
    await asyncio.to_thread(machine.route, "eth0")
    await asyncio.to_thread(
        manager.update,
        NETWORK,
        Metered=("u", YES),
        Connectivity=("u", NONE),
        State=("u", DISCONNECTED),
    )
    wanted = config(machine.root, manager.address)
    async with watch(wanted, NetworkProbe(wanted)) as watched:
        await comes(watched, "ok", "eth0 is unmetered")


async def test_networkmanager_knows_of_a_default_route_that_the_files_do_not_show(manager, machine):
    await asyncio.to_thread(manager.update, NETWORK, State=("u", SITE), Metered=("u", NO))
    wanted = config(machine.root, manager.address)
    async with watch(wanted, NetworkProbe(wanted)) as watched:
        await comes(watched, "ok", "the network is unmetered")


async def test_what_networkmanager_tells_in_another_type_or_number_is_not_told(manager, machine):
    await asyncio.to_thread(machine.route, "eth0")
    wanted = config(machine.root, manager.address)
    async with watch(wanted, NetworkProbe(wanted)) as watched:
        await comes(watched, "ok")
        await asyncio.to_thread(manager.update, NETWORK, Metered=("u", YES))
        await comes(watched, "metered")
        rubbish = {"Metered": ("s", "1"), "Connectivity": ("u", 99)}
        await asyncio.to_thread(manager.update, NETWORK, **rubbish)
        await comes(watched, "ok", "eth0 is unmetered")


# Hardware


@pytest.mark.parametrize(
    ("interface", "shown", "code"),
    [
        # Modems, however they are named.
        ("wwan0", {"bus": "usb", "driver": "qmi_wwan", "devtype": "wwan"}, "metered"),
        ("eth1", {"bus": "usb", "driver": "cdc_mbim"}, "metered"),
        ("eth1", {"bus": "wwan", "driver": "t7xx", "type_": 65534}, "metered"),
        # Phones.
        ("enp0s20u1", {"bus": "usb", "driver": "rndis_host"}, "metered"),
        ("eth1", {"bus": "usb", "driver": "ipheth"}, "metered"),
        ("enp0s20u1", {"bus": "usb", "driver": "cdc_ether"}, "metered"),
        ("enp1", {"devtype": "bluetooth"}, "metered"),
        # Wi-Fi.
        ("wlan0", {"bus": "sdio", "driver": "brcmfmac", "wireless": True}, "ok"),
        ("enx001122334455", {"bus": "usb", "driver": "mt76x2u", "wireless": True}, "ok"),
        ("foo0", {"devtype": "wlan"}, "ok"),
        # Ethernet: on the board, on PCI, on USB, which on a Raspberry Pi 3 is on the board.
        ("eth0", {"bus": "platform", "driver": "bcmgenet"}, "ok"),
        ("lan", {"bus": "pci", "driver": "igb"}, "ok"),
        ("ens3", {"bus": "virtio", "driver": "virtio_net"}, "ok"),
        ("enxb827eb112233", {"bus": "usb", "driver": "smsc95xx"}, "ok"),
        ("enxb827eb112233", {"bus": "usb", "driver": "lan78xx"}, "ok"),
        ("enx00e04c112233", {"bus": "usb", "driver": "r8152"}, "ok"),
        ("usb0", {"bus": "usb", "driver": "ax88179_178a"}, "ok"),
        # Neither here nor there: the name tells.
        ("enx001122334455", {"bus": "usb", "driver": "cdc_ncm"}, "metered"),
        ("eth1", {"bus": "usb", "driver": "cdc_ncm"}, "ok"),
        ("usb0", {"bus": "gadget"}, "ok"),
        ("lan", {"bus": "pci", "driver": "strange", "type_": 32}, "metered"),
        # Virtual ones.
        ("eth0", {}, "ok"),
        ("tun0", {"type_": 65534}, "metered"),
        ("docker0", {"devtype": "bridge"}, "metered"),
    ],
)
def test_the_hardware_tells_the_kind_of_network(machine, interface, shown, code):
    machine.interface(interface, **shown)
    machine.route(interface)
    assert look(machine)[0] == code


@pytest.mark.parametrize(
    ("below", "code", "kind"),
    [
        ("eth0", "ok", "br0 is unmetered"),
        ("wwan0", "metered", "br0 is metered"),
        ("tun0", "metered", "br0 is of unknown kind, taken as metered"),
    ],
)
def test_a_bridge_is_of_the_kind_that_it_stands_on(machine, below, code, kind):
    machine.interface("br0", devtype="bridge", lower=("eth1", below))
    machine.interface("eth1", bus="pci", driver="igb")
    machine.route("br0")
    assert look(machine) == (code, kind)


def test_interfaces_that_stand_on_each_other_are_of_unknown_kind(machine):
    machine.interface("br0", lower=("br1",))
    machine.interface("br1", lower=("br0",))
    machine.route("br0")
    assert look(machine)[0] == "metered"


@pytest.mark.parametrize(("below", "code"), [("wlan0", "ok"), ("wwan0", "metered")])
def test_behind_a_tunnel_what_carries_it_counts(machine, below, code):
    machine.route("wg0", metric=50)
    machine.route(below, metric=600)
    assert look(machine)[0] == code


@pytest.mark.parametrize(
    ("interface", "code", "kind"),
    [
        ("eth0", "ok", "unmetered"),
        ("enp3s0", "ok", "unmetered"),
        ("end0", "ok", "unmetered"),
        ("wlan0", "ok", "unmetered"),
        ("wlp2s0", "ok", "unmetered"),
        ("wwan0", "metered", "metered"),
        ("wwp0s20u4", "metered", "metered"),
        ("ppp0", "metered", "metered"),
        ("usb0", "metered", "metered"),
        ("enx0c5b8f279a64", "metered", "metered"),
        ("rmnet_data0", "metered", "metered"),
        ("tun0", "metered", "of unknown kind, taken as metered"),
        ("br0", "metered", "of unknown kind, taken as metered"),
    ],
)
def test_without_sysfs_the_name_tells(machine, interface, code, kind):
    machine.route(interface)
    assert look(machine) == (code, f"{interface} is {kind}")


# Routes


def test_no_default_route_is_offline(machine):
    machine.route("eth0", destination="0000A8C0", mask="00FFFFFF")
    assert look(machine) == ("offline", "no default route")


def test_no_procfs_is_offline(tmp_path):
    assert NetworkProbe(parse("")).look(System(tmp_path, tmp_path)).code == "offline"


def test_the_default_route_with_the_lowest_metric_counts(machine):
    machine.route("wwan0", metric=700)
    machine.route("eth0", metric=100)
    machine.route("wlan0", metric=600)
    assert look(machine) == ("ok", "eth0 is unmetered")


def test_half_of_the_internet_is_not_a_default_route(machine):
    machine.route("tun0", metric=0, mask="00000080")
    machine.route("eth0", metric=100)
    assert look(machine) == ("ok", "eth0 is unmetered")


def test_a_route_that_refuses_is_no_route(machine):
    machine.route("*", flags="0201")
    machine.route_6("lo", metric=0xFFFFFFFF, flags=0x00200200)
    assert look(machine)[0] == "offline"


def test_a_network_without_ipv4_is_a_network(machine):
    machine.route_6("lo", metric=0xFFFFFFFF, flags=0x00200200)
    machine.route_6("wlan0")
    assert look(machine) == ("ok", "wlan0 is unmetered")


# The owner's wishes


@pytest.mark.parametrize("interface", ["wwan0", "tun0", "eth0", None])
def test_any_network_will_do_when_the_owner_says_so(machine, interface):
    if interface:
        machine.route(interface)
    assert look(machine, 'network = "any"') == ("ok", "any network will do")


def test_an_unknown_network_is_taken_as_the_owner_says(machine):
    machine.route("br0")
    taken = 'unknown_network = "unmetered"'
    assert look(machine, taken) == ("ok", "br0 is of unknown kind, taken as unmetered")
    machine.route("wwan0", metric=1)
    assert look(machine, taken)[0] == "metered"
