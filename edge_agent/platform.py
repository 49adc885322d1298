"""What the operating system says: power, load and network, from sysfs, procfs and psutil.

`root` is `/`; tests and the demo give a folder with a `sys` and a `proc` of their own.
"""

import platform
from importlib import metadata
from pathlib import Path

import psutil

from edge_agent.eligibility import Readings
from wire.messages import Facts

# As in the kernel's Documentation/ABI/testing/sysfs-class-power.
_EXTERNAL = {"Mains", "USB", "Wireless"}
_ONLINE = {"1", "2"}  # fixed, programmable
_BATTERIES = {"Battery", "UPS"}
_SUPPLIED = {"Charging", "Full", "Not charging"}
_METERED_PREFIXES = ("ww", "ppp", "usb", "rmnet", "enx")  # modems and tethered phones
_UNMETERED_PREFIXES = ("eth", "en", "wl")
_REJECT = 0x200  # a route's flag: it leads nowhere, RTF_REJECT in linux/route.h


class Platform:
    """Reads the machine. `read` blocks for a moment: call it off the event loop.

    The load is that between two reads, so the first one does not know it.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._supplies = root / "sys/class/power_supply"
        self._net = root / "proc/net"
        self._last: tuple[float, float, float] | None = None
        self._busy: float | None = None

    def read(self) -> Readings:
        """All readings now."""
        on_mains, battery = self._power()
        network, interface = self._network()
        return Readings(
            on_mains=on_mains,
            battery=battery,
            busy=self._load(),
            network=network,
            interface=interface,
        )

    def _power(self) -> tuple[bool | None, float | None]:
        """External power, and the charge of the weakest battery.

        A machine without any battery of its own runs on mains, unless an adapter says otherwise:
        its USB ports may be supplies that are not used. A battery that does not tell its charge
        counts as empty.
        """
        adapters: list[bool] = []
        ports: list[bool] = []
        statuses: set[str] = set()
        charges: list[float] = []
        for supply in self._supplies.glob("*"):
            kind = _text(supply / "type")
            if _text(supply / "scope") == "Device" or _text(supply / "present") == "0":
                continue  # of a mouse, say; or an empty bay
            if kind in _EXTERNAL:
                found = adapters if kind == "Mains" else ports
                found.append(_text(supply / "online") in _ONLINE)
            elif kind in _BATTERIES:
                statuses.add(_text(supply / "status"))
                charges.append(_charge(supply))
        if not charges:
            return (any(adapters + ports) if adapters else True), None
        if adapters or ports:
            return any(adapters + ports), min(charges)
        if "Discharging" in statuses:
            return False, min(charges)
        return (True if statuses <= _SUPPLIED else None), min(charges)

    def _load(self) -> float | None:
        """Percent of all cores used by others since the last read."""
        times = psutil.cpu_times()
        total = sum(times[:8])
        idle = times.idle + getattr(times, "iowait", 0.0)
        own = _own_seconds()
        if self._last is not None:
            elapsed = total - self._last[0]
            if elapsed < 0.1:  # too short to tell: the kernel counts in hundredths
                return self._busy
            others = elapsed - (idle - self._last[1]) - (own - self._last[2])
            self._busy = min(100.0, max(0.0, 100.0 * others / elapsed))
        self._last = (total, idle, own)
        return self._busy

    def _network(self) -> tuple[str | None, str]:
        """Kind and name of the default route's interface."""
        interface = _default_interface(_text(self._net / "route")) or _default_interface_6(
            _text(self._net / "ipv6_route")
        )
        if interface is None:
            return "none", ""
        if interface.startswith(_METERED_PREFIXES):
            return "metered", interface
        if interface.startswith(_UNMETERED_PREFIXES):
            return "unmetered", interface
        return None, interface


def facts() -> Facts:
    """What this device is and can run."""
    return Facts(
        agent=metadata.version("lamplighter"),
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}"[:100],
        python=platform.python_version(),
        runtime=runtime_version(),
        cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
    )


def runtime_version() -> str:
    """The installed ONNX Runtime, without importing it; `none` when there is none."""
    for name in ("onnxruntime", "onnxruntime-training-cpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "none"


def _default_interface(routes: str) -> str | None:
    """The interface of the default route with the lowest metric in `/proc/net/route`."""
    found = []
    for line in routes.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 8 and fields[1] == "00000000" and fields[7] == "00000000":
            found.append((int(fields[6]), fields[0], int(fields[3], 16)))
    return _best(found)


def _default_interface_6(routes: str) -> str | None:
    """The same of `/proc/net/ipv6_route`, for a network without IPv4."""
    found = []
    for line in routes.splitlines():
        fields = line.split()
        if len(fields) >= 10 and fields[0] == "0" * 32 and fields[1] == "00":
            found.append((int(fields[5], 16), fields[9], int(fields[8], 16)))
    return _best(found)


def _best(found: list[tuple[int, str, int]]) -> str | None:
    """The interface of the lowest (metric, interface, flags) that does not refuse."""
    return min(((m, name) for m, name, flags in found if not flags & _REJECT), default=(0, None))[1]


def _own_seconds() -> float:
    """Processor seconds of this process and its children, ended ones too."""
    process = psutil.Process()
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            used = child.cpu_times()
        except psutil.Error:
            continue
        total += used.user + used.system
    return float(total)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _charge(supply: Path) -> float:
    """Percent; 0 when it is not told."""
    for now, full in (
        ("capacity", ""),
        ("energy_now", "energy_full"),
        ("charge_now", "charge_full"),
    ):
        held, size = _number(supply / now), _number(supply / full) if full else 100.0
        if held is not None and size:
            return 100.0 * held / size
    return 0.0


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None
