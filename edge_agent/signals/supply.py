"""What a Raspberry Pi's firmware says of its power supply: too little voltage, a slowed processor.

Training draws power. On a weak supply or cable it costs the owner's programs their speed, and in
the end the SD card's content.
"""

from collections.abc import Mapping
from typing import ClassVar

from edge_agent.config import Config
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import System, text

_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
# Bits of `get_throttled`: what is now. From bit 16 on is what has happened since the start.
_UNDER_VOLTAGE = 1 << 0
_SLOWED = {
    1 << 1: "its frequency is capped",
    1 << 2: "it is throttled",
    1 << 3: "it is at its soft temperature limit",
}


class SupplyProbe:
    """Reads the firmware's flags, and the kernel's own alarm."""

    name: ClassVar[str] = "supply"
    codes: ClassVar[Mapping[str, str]] = {
        "under_voltage": "the power supply or its cable is too weak",
        "throttled": "the firmware slows the processor down",
    }

    def __init__(self, config: Config) -> None:
        self._any = config.eligibility.supply == "any"

    def look(self, system: System) -> Signal:
        """The supply now."""
        if self._any:
            return Signal.yes(self.name, "any supply will do")
        return judge(flags(system.text(_THROTTLED)), _alarm(system))


def flags(told: str) -> int | None:
    """The firmware's bits, told in hexadecimal; `None` when they are not."""
    try:
        return int(told, 16)
    except ValueError:
        return None


def judge(bits: int | None, alarm: bool | None) -> Signal:
    """Whether the supply is good. `None` is not told."""
    name = SupplyProbe.name
    if alarm or (bits or 0) & _UNDER_VOLTAGE:
        return Signal.no(name, "under_voltage", "the power supply gives too little voltage")
    if slowed := [said for bit, said in _SLOWED.items() if (bits or 0) & bit]:
        return Signal.no(name, "throttled", f"the processor is slowed: {', '.join(slowed)}")
    if bits is None and alarm is None:
        return Signal.yes(name, "the firmware does not tell")
    return Signal.yes(name, "the power supply is good")


def _alarm(system: System) -> bool | None:
    """The kernel's under-voltage alarm; `None` where there is none."""
    for sensor in system.folders("sys/class/hwmon"):
        if text(sensor / "name") == "rpi_volt" and (said := text(sensor / "in0_lcrit_alarm")):
            return said != "0"
    return None
