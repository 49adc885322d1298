"""The demo's eight devices: a folder, a share of the digits, a configuration, a battery or not."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edge_agent.state import StateFolder
from edge_agent.status import ask
from fleet.demo.processes import Processes
from fleet.digits.data import Share

_CONFIG = """\
# A device of the demo. The network is this machine's own loopback, and the machine is busy with
# the other devices, so neither is asked about; power is.
poll = "500ms"
system_root = "{root}"
system_bus = ""

[data]
folder = "{examples}"

[eligibility]
settle = "0s"
power = "mains"
max_busy = 100
max_io_pressure = 100
max_memory_pressure = 100
network = "any"

[schedule]
round_deadline = "1m"
check_in = "500ms"
"""


@dataclass
class Device:
    """One device and the address at which it finds the coordinator."""

    name: str
    folder: Path
    examples: int
    url: str
    arguments: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.arguments = (
            "--state", str(self.folder / "state"), "--config", str(self.folder / "agent.toml"),
        )  # fmt: skip

    async def join(self, processes: Processes, token: str) -> None:
        """Enrol, as its owner would."""
        await processes.run(
            f"{self.name}-enroll",
            "edge_agent",
            *("enroll", self.url, token, "--consent", "--name", self.name, *self.arguments),
        )

    async def start(self, processes: Processes) -> None:
        """Start its agent."""
        await processes.start(self.name, "edge_agent", "run", *self.arguments)

    def plug_in(self) -> None:
        """Blocking: connect the charger, as far as the device can tell."""
        _write(self.folder / "root/sys/class/power_supply/AC/online", "1")
        _write(self.folder / "root/sys/class/power_supply/BAT0/status", "Charging")

    async def doing(self) -> str:
        """What its agent says of itself."""
        status = await ask(StateFolder(self.folder / "state").socket)
        return f"{status.doing}: {status.why}" if status else "[red]not running[/]"


def make(folder: Path, name: str, share: Share, url: str, on_battery: bool) -> Device:
    """Blocking: lay out a device's folder."""
    (folder / "examples").mkdir(parents=True)
    np.savez(folder / "examples" / "digits.npz", x=share["x"], label=share["label"])
    supplies = folder / "root/sys/class/power_supply"
    _write(supplies / "AC/type", "Mains")
    _write(supplies / "AC/online", "0" if on_battery else "1")
    if on_battery:
        _write(supplies / "BAT0/type", "Battery")
        _write(supplies / "BAT0/capacity", "81")
        _write(supplies / "BAT0/status", "Discharging")
    config = _CONFIG.format(root=folder / "root", examples=folder / "examples")
    _write(folder / "agent.toml", config)
    return Device(name, folder, len(share["label"]), url)


async def join_all(devices: list[Device], processes: Processes, token: str) -> None:
    """Enrol every device, a few at a time."""
    gate = asyncio.Semaphore(3)

    async def join(device: Device) -> None:
        async with gate:
            await device.join(processes, token)

    async with asyncio.TaskGroup() as group:
        for device in devices:
            group.create_task(join(device))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
