"""How busy a graphics processor is, where the kernel's drivers say so. Training uses none.

* amdgpu: `gpu_busy_percent`;
* v3d, of a Raspberry Pi from kernel 6.7 on: `gpu_stats`, nanoseconds at work by queue;
* Mali under a board maker's kernel: the `load` of its devfreq device, `12@300000000Hz`.

What others say needs privileges or a library of the maker.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from edge_agent.config import Config
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import System, number, text

_CARD = re.compile(r"card\d+")
_DEVFREQ = re.compile(r"gpu|mali", re.IGNORECASE)
_LOAD = re.compile(r"(\d+)(?:@|$)")
Queues = Mapping[str, tuple[int, int]]
"""(moment, time at work), both in nanoseconds, by device and queue."""


class GpuProbe:
    """A queue's time at work is told between two looks: the first look knows less."""

    name: ClassVar[str] = "gpu"
    codes: ClassVar[Mapping[str, str]] = {
        "gpu_busy": "a graphics processor is in use more than `max_gpu_busy`"
    }

    def __init__(self, config: Config) -> None:
        self._limit = config.eligibility.max_gpu_busy
        self._last: Queues = {}

    def look(self, system: System) -> Signal:
        """The busiest graphics processor now."""
        cards = [p / "device" for p in system.folders("sys/class/drm") if _CARD.fullmatch(p.name)]
        queues = {k: v for card in cards for k, v in stats(str(card), text(card / "gpu_stats"))}
        found = [
            *(busy for card in cards if (busy := _percent(card)) is not None),
            *_devfreq(system),
            *between(self._last, queues),
        ]
        self._last = queues
        return judge(max(found, default=None), self._limit)


def stats(device: str, told: str) -> Iterator[tuple[str, tuple[int, int]]]:
    """The queues of v3d's `gpu_stats`: lines of name, moment, jobs, time at work."""
    for line in told.splitlines()[1:]:
        fields = line.split()
        if len(fields) == 4 and fields[1].isdecimal() and fields[3].isdecimal():
            yield f"{device} {fields[0]}", (int(fields[1]), int(fields[3]))


def between(before: Queues, after: Queues) -> list[float]:
    """Percent of the time that each queue was at work between two readings."""
    found = []
    for queue, (moment, worked) in after.items():
        if queue in before and (elapsed := moment - before[queue][0]) > 0:
            found.append(min(100.0, max(0.0, 100.0 * (worked - before[queue][1]) / elapsed)))
    return found


def judge(busy: float | None, limit: float) -> Signal:
    """Whether the graphics processors, if any tells, are free enough."""
    name = GpuProbe.name
    if busy is None:
        return Signal.yes(name, "no graphics processor tells its load")
    observed = f"a graphics processor is in use {busy:.0f} % of the time"
    if busy > limit:
        return Signal.no(name, "gpu_busy", f"{observed}, at most {limit:.0f} % wanted")
    return Signal.yes(name, observed)


def _percent(device: Path) -> float | None:
    """What amdgpu says. A card that sleeps is left alone: asking would wake it."""
    if text(device / "power/runtime_status") == "suspended":
        return None
    return number(device / "gpu_busy_percent")


def _devfreq(system: System) -> Iterator[float]:
    for device in system.folders("sys/class/devfreq"):
        if _DEVFREQ.search(device.name) and (found := _LOAD.match(text(device / "load"))):
            yield min(100.0, float(found[1]))
