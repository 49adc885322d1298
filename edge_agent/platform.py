"""What the operating system says: power, load and network, from sysfs, procfs and psutil.

`root` is `/`; tests and the demo give a folder with a `sys` and a `proc` of their own.
"""

import platform
from importlib import metadata
from pathlib import Path

import psutil

from edge_agent.eligibility import Readings
from wire.messages import Facts

_EXTERNAL = {"Mains", "USB", "Wireless"}
_METERED_PREFIXES = ("wwan", "ppp", "usb", "rmnet", "enx")  # modems and tethered phones
_UNMETERED_PREFIXES = ("eth", "en", "wl")


class Platform:
    """Reads the machine. `read` blocks for a moment: call it off the event loop.

    The load is that between two reads, so the first one does not know it.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._supplies = root / "sys/class/power_supply"
        self._routes = root / "proc/net/route"
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
        """External power and charge. A machine without any battery runs on mains."""
        external: list[bool] = []
        charges: list[float] = []
        discharging = False
        for supply in sorted(self._supplies.glob("*")):
            kind = _text(supply / "type")
            if kind in _EXTERNAL:
                external.append(_text(supply / "online") == "1")
            elif kind == "Battery" and _text(supply / "scope") != "Device":
                charges.append(_number(supply / "capacity"))
                discharging |= _text(supply / "status") == "Discharging"
        battery = min((c for c in charges if c >= 0), default=None)
        if not charges:
            return (any(external) if external else True), None
        if external:
            return any(external), battery
        return (not discharging), battery

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
        interface = _default_interface(_text(self._routes))
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
            found.append((int(fields[6]), fields[0]))
    return min(found)[1] if found else None


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


def _number(path: Path) -> float:
    try:
        return float(_text(path))
    except ValueError:
        return -1.0
