"""Network interfaces: which one leads out, and whether its kind costs money. From procfs and sysfs.

Cellular modems and tethered phones count as metered; Ethernet and Wi-Fi do not. A kind that cannot
be told, as that of a tunnel, is `None`.
"""

import os
from pathlib import Path
from typing import Literal, NamedTuple

from edge_agent.signals.system import System, number, text

Kind = Literal["metered", "unmetered"]

_NET = "sys/class/net"
_REJECT = 0x200  # a route's flag: it leads nowhere, RTF_REJECT in linux/route.h
_ETHERNET = 1  # ARPHRD_ETHER in linux/if_arp.h
_DEEPEST = 4  # a VLAN on a bond on a bridge

# DEVTYPE in an interface's uevent; a Bluetooth network is a phone's.
_TYPES: dict[str, Kind] = {"wwan": "metered", "bluetooth": "metered", "wlan": "unmetered"}
# USB drivers of phones and modems. Some sticks and phones speak `cdc_ether`, as few adapters do.
_TETHERS = {
    *("rndis_host", "ipheth", "cdc_ether", "cdc_mbim", "cdc_phonet"),
    *("huawei_cdc_ncm", "qmi_wwan", "sierra_net", "hso"),
}
# USB drivers of Ethernet adapters, among them what is on the board of a Raspberry Pi (smsc95xx,
# lan78xx). `cdc_ncm` is neither here nor there: adapters speak it, and phones.
_ADAPTERS = {
    *("r8152", "r8153_ecm", "rtl8150", "asix", "ax88179_178a", "ax_usb_nic", "aqc111"),
    *("smsc75xx", "smsc95xx", "lan78xx", "dm9601", "mcs7830", "sr9700", "sr9800"),
    *("pegasus", "ch9200", "kaweth", "catc"),
}
_MODEM_BUSES = {"wwan", "mhi", "rpmsg"}
# By name, where sysfs does not tell.
_METERED_NAMES = ("ww", "ppp", "usb", "rmnet", "ccmni", "bnep", "enx")
_UNMETERED_NAMES = ("eth", "en", "wl")


class Route(NamedTuple):
    """The way out: an interface, and what its kind costs."""

    interface: str
    kind: Kind | None


def way_out(system: System) -> Route | None:
    """The default route; `None` when there is none. Behind a tunnel, what carries it counts."""
    names = default_interfaces(system)
    if not names:
        return None
    kinds = [kind_of(system, name) for name in names]
    kind = kinds[0]
    if kind is None:  # a tunnel, perhaps: the next route is then what carries it
        kind = next((k for k in kinds if k is not None), None)
    return Route(names[0], kind)


def default_interfaces(system: System) -> list[str]:
    """The interfaces of the default routes, the preferred one first; IPv6 only without IPv4."""
    found = _routes_4(system.text("proc/net/route")) or _routes_6(
        system.text("proc/net/ipv6_route")
    )
    return list(dict.fromkeys(name for _, name in sorted(found)))


def _routes_4(routes: str) -> list[tuple[int, str]]:
    """Metric and interface of each default route in `/proc/net/route`."""
    found = []
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 8 and fields[1] == "00000000" and fields[7] == "00000000":
            found.append((int(fields[6]), fields[0], int(fields[3], 16)))
    return [(metric, name) for metric, name, flags in found if not flags & _REJECT]


def _routes_6(routes: str) -> list[tuple[int, str]]:
    """The same of `/proc/net/ipv6_route`."""
    found = []
    for line in routes.splitlines():
        fields = line.split()
        if len(fields) >= 10 and fields[0] == "0" * 32 and fields[1] == "00":
            found.append((int(fields[5], 16), fields[9], int(fields[8], 16)))
    return [(metric, name) for metric, name, flags in found if not flags & _REJECT]


def kind_of(system: System, interface: str, depth: int = 0) -> Kind | None:
    """What the use of an interface costs: the hardware tells, its name only where nothing else
    does."""
    folder = system.root / _NET / interface
    type_ = _uevent(folder, "DEVTYPE")
    if type_ in _TYPES:
        return _TYPES[type_]
    if (folder / "wireless").exists() or (folder / "phy80211").exists():
        return "unmetered"
    if (folder / "device").exists():
        return _hardware(folder) or _by_name(interface)
    if below := _below(system, interface):
        return _dearest(system, below, depth)
    return _by_name(interface)


def _hardware(folder: Path) -> Kind | None:
    """What sort of device it is; `None` when that can be this or that."""
    bus, driver = _target(folder / "device/subsystem"), _target(folder / "device/driver")
    if driver in _TETHERS or bus in _MODEM_BUSES:
        return "metered"
    if driver in _ADAPTERS:
        return "unmetered"
    if bus in ("", "usb"):
        return None
    return "unmetered" if number(folder / "type") == _ETHERNET else None


def _below(system: System, interface: str) -> list[str]:
    """What a bridge, a bond or a VLAN stands on."""
    names = [path.name for path in system.folders(f"{_NET}/{interface}")]
    return [name.removeprefix("lower_") for name in names if name.startswith("lower_")]


def _dearest(system: System, interfaces: list[str], depth: int) -> Kind | None:
    if depth >= _DEEPEST:
        return None
    kinds = {kind_of(system, name, depth + 1) for name in interfaces}
    return "metered" if "metered" in kinds else "unmetered" if kinds == {"unmetered"} else None


def _by_name(interface: str) -> Kind | None:
    if interface.startswith(_METERED_NAMES):
        return "metered"
    return "unmetered" if interface.startswith(_UNMETERED_NAMES) else None


def _uevent(folder: Path, key: str) -> str:
    for line in text(folder / "uevent").splitlines():
        name, _, value = line.partition("=")
        if name == key:
            return value
    return ""


def _target(link: Path) -> str:
    """The name that a link of sysfs points to; empty when there is none."""
    try:
        return Path(os.readlink(link)).name  # noqa: PTH115 - not resolved: a name is enough
    except OSError:
        return ""
