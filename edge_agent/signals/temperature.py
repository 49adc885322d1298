"""How hot the device is: the hottest sensor of its processor.

Sensors of a battery, a charger, a radio or a disk say nothing about that, and some of them always
show the same absurd number. So those whose names tell a processor are asked first: the thermal
zones, then hardware monitors; only when there is none, every zone that is not known as another
part.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from edge_agent.config import Config
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import System, number, text

# Such as cpu-thermal, x86_pkg_temp, soc-thermal, bcm2835_thermal; coretemp, k10temp.
_PROCESSOR = re.compile(r"cpu|core|pkg|soc|bcm2835|k8temp|k10temp|zenpower", re.IGNORECASE)
_OTHER_PART = re.compile(r"bat|charg|pmic|wifi|wwan|modem|usb|nvme|pch|skin", re.IGNORECASE)
_LOWEST, _HIGHEST = -40.0, 150.0  # degrees Celsius; beyond these a sensor is broken


class TemperatureProbe:
    """Reads the sensors."""

    name: ClassVar[str] = "temperature"
    codes: ClassVar[Mapping[str, str]] = {
        "too_hot": "the processor is hotter than `max_temperature`"
    }

    def __init__(self, config: Config) -> None:
        self._limit = config.eligibility.max_temperature

    def look(self, system: System) -> Signal:
        """The temperature now."""
        return judge(hottest(system), self._limit)


def hottest(system: System) -> float | None:
    """Degrees Celsius; `None` when no sensor tells."""
    zones = [(text(zone / "type"), zone) for zone in _zones(system)]
    # Generators: a way that is not needed is not read, for some sensors wake a processor.
    for sensors in (
        (zone / "temp" for kind, zone in zones if _PROCESSOR.search(kind)),
        _monitors(system),
        (zone / "temp" for kind, zone in zones if not _OTHER_PART.search(kind)),
    ):
        found = [degrees for path in sensors if (degrees := _degrees(path)) is not None]
        if found:
            return max(found)
    return None


def judge(degrees: float | None, limit: float) -> Signal:
    """Whether it is cool enough."""
    name = TemperatureProbe.name
    if degrees is None:
        return Signal.yes(name, "no sensor tells a temperature")
    if degrees > limit:
        return Signal.no(name, "too_hot", f"{degrees:.0f} °C, at most {limit:.0f} °C wanted")
    return Signal.yes(name, f"{degrees:.0f} °C")


def _zones(system: System) -> Iterator[Path]:
    for folder in system.folders("sys/class/thermal"):
        if folder.name.startswith("thermal_zone"):
            yield folder


def _monitors(system: System) -> Iterator[Path]:
    """The sensors of a processor's hardware monitors."""
    for monitor in system.folders("sys/class/hwmon"):
        if _PROCESSOR.search(text(monitor / "name")):
            yield from monitor.glob("temp*_input")


def _degrees(path: Path) -> float | None:
    told = number(path)  # thousandths of a degree
    if told is None or not _LOWEST < told / 1000 <= _HIGHEST:
        return None
    return told / 1000
