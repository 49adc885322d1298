"""Power: UPower where it runs, else sysfs, else what psutil knows of other systems."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import psutil

from edge_agent.config import Config
from edge_agent.signals.services import BATTERY, UPOWER, flag, real
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import System, number, text

_SUPPLIES = "sys/class/power_supply"
# As in the kernel's Documentation/ABI/testing/sysfs-class-power.
_EXTERNAL = {"Mains", "USB", "Wireless"}
_ONLINE = {"1", "2"}  # fixed, programmable
_BATTERIES = {"Battery", "UPS"}
_SUPPLIED = {"Charging", "Full", "Not charging"}


class Supplied(NamedTuple):
    """What feeds the machine. `on_mains`: external power, `None` when there is no telling.
    `battery`: percent; `None` is no battery."""

    on_mains: bool | None
    battery: float | None


class PowerProbe:
    """Whether the machine may spend power."""

    name: ClassVar[str] = "power"
    codes: ClassVar[Mapping[str, str]] = {
        "on_battery": "it runs on battery",
        "battery_low": "the battery holds less than `min_battery`",
        "power_unknown": "there is a battery, and no sign of external power",
    }

    def __init__(self, config: Config) -> None:
        self._config = config

    def look(self, system: System) -> Signal:
        return judge(observe(system), self._config)


def judge(supplied: Supplied, config: Config) -> Signal:
    """The signal on this supply."""
    battery, least = supplied.battery, config.eligibility.min_battery
    charge = "no battery" if battery is None else f"battery at {battery:.0f} %"
    if config.eligibility.power == "mains" and supplied.on_mains is not True:
        if supplied.on_mains is None:
            return Signal.no("power", "power_unknown", f"no sign of external power, {charge}")
        return Signal.no("power", "on_battery", charge)
    if battery is not None and battery < least:
        return Signal.no("power", "battery_low", f"{charge}, at least {least:.0f} % wanted")
    return Signal.yes("power", ("on mains, " if supplied.on_mains else "") + charge)


def observe(system: System) -> Supplied:
    """What feeds the machine now, from the best source that it has."""
    if (told := _from_upower(system)) is not None:
        return told
    if system.root == Path("/") and not (system.root / _SUPPLIES).is_dir():
        return from_psutil(_sensors())
    return _from_sysfs(system)


def _from_upower(system: System) -> Supplied | None:
    """`None` when it does not run."""
    on_battery = flag(system.properties(UPOWER), "OnBattery")
    if on_battery is None:
        return None
    battery = system.properties(BATTERY)
    if flag(battery, "IsPresent"):
        return Supplied(not on_battery, real(battery, "Percentage") or 0.0)
    # On a battery that it does not tell of: it counts as empty.
    return Supplied(not on_battery, 0.0 if on_battery else None)


def _sensors() -> object:
    """What psutil knows of a battery; `None` when there is none, or no way to know."""
    sensors = getattr(psutil, "sensors_battery", None)  # not on every system
    try:
        return sensors() if sensors else None
    except OSError:  # a Linux without the class of power supplies
        return None


def from_psutil(battery: object) -> Supplied:
    """What `psutil.sensors_battery()` says; a machine without a battery runs on mains."""
    if battery is None:
        return Supplied(True, None)
    return Supplied(getattr(battery, "power_plugged", None), getattr(battery, "percent", 0.0))


def _from_sysfs(system: System) -> Supplied:
    """External power, and the charge of the weakest battery.

    A machine without any battery of its own runs on mains, unless an adapter says otherwise: its
    USB ports may be supplies that are not used.
    """
    adapters: list[bool] = []
    ports: list[bool] = []
    statuses: set[str] = set()
    charges: list[float] = []
    for supply in system.folders(_SUPPLIES):
        kind = text(supply / "type")
        if text(supply / "scope") == "Device" or text(supply / "present") == "0":
            continue  # of a mouse, say; or an empty bay
        if kind in _EXTERNAL:
            found = adapters if kind == "Mains" else ports
            found.append(text(supply / "online") in _ONLINE)
        elif kind in _BATTERIES:
            statuses.add(text(supply / "status"))
            charges.append(_charge(supply))
    if not charges:
        return Supplied(any(adapters + ports) if adapters else True, None)
    if adapters or ports:
        return Supplied(any(adapters + ports), min(charges))
    if "Discharging" in statuses:
        return Supplied(False, min(charges))
    return Supplied(True if statuses <= _SUPPLIED else None, min(charges))


def _charge(supply: Path) -> float:
    """Percent; a battery that does not tell its charge counts as empty."""
    for now, full in (
        ("capacity", ""),
        ("energy_now", "energy_full"),
        ("charge_now", "charge_full"),
    ):
        held, size = number(supply / now), number(supply / full) if full else 100.0
        if held is not None and size:
            return 100.0 * held / size
    return 0.0
