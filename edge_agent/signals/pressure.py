"""How long programs wait for a disk or for memory: the kernel's pressure stall information (PSI).

Training reads examples and holds memory, so the machine's figure rises with our own work. It must
not end that work: it would start again, and end again. So when the figure is too high, and our
cgroup holds nothing but us (as it does as a service), all the other cgroups are asked instead: who
waits because of us is among them. Their sum is taken, which is never less than the time in which
one of them waited. Where we share a cgroup with others, the machine's figure stands.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import ClassVar

from edge_agent.config import Config
from edge_agent.signals.ours import OwnPids, alone, cgroups, no_children
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import System

_SOME = re.compile(r"^some avg10=(\d+(?:\.\d+)?) ", re.MULTILINE)
_WAITED_FOR = {"io": "a disk", "memory": "memory"}


class PressureProbe:
    """Asks the kernel for the last ten seconds."""

    name: ClassVar[str] = "pressure"
    codes: ClassVar[Mapping[str, str]] = {
        "io_pressure": "other programs wait for a disk more than `max_io_pressure`",
        "memory_pressure": "other programs wait for memory more than `max_memory_pressure`",
    }

    def __init__(self, config: Config, own_pids: OwnPids = no_children) -> None:
        self._limits = {
            "io": config.eligibility.max_io_pressure,
            "memory": config.eligibility.max_memory_pressure,
        }
        self._own_pids = own_pids

    def look(self, system: System) -> Signal:
        """The waits now; where the kernel does not tell them, that is no reason against work."""
        waits = {}
        for kind, limit in self._limits.items():
            wait = some(system.text(f"proc/pressure/{kind}"))
            if wait is not None and wait > limit:
                wait = min(wait, self._of_others(system, kind, wait))
            waits[kind] = wait
        return judge(waits, self._limits)

    def _of_others(self, system: System, kind: str, all_of_us: float) -> float:
        """Percent in which others waited, at most; all of it when they cannot be told apart."""
        ours = cgroups(system)
        if not ours or not alone(system, ours[0], self._own_pids()):
            return all_of_us
        found = list(_siblings(system, ours, kind))
        return sum(found) if found else all_of_us


def some(text: str) -> float | None:
    """Percent of the last 10 s in which at least one program waited; `None` when it is not told."""
    found = _SOME.search(text)
    return float(found[1]) if found else None


def judge(waits: Mapping[str, float | None], limits: Mapping[str, float]) -> Signal:
    """Whether others wait too long, by `io` and `memory`."""
    name = PressureProbe.name
    told = {kind: wait for kind, wait in waits.items() if wait is not None}
    for kind, wait in told.items():
        if wait > limits[kind]:
            observed = f"other programs waited for {_WAITED_FOR[kind]} in {wait:.0f} % of 10 s"
            return Signal.no(
                name, f"{kind}_pressure", f"{observed}, at most {limits[kind]:.0f} % wanted"
            )
    if not told:
        return Signal.yes(name, "the kernel does not tell who waits")
    return Signal.yes(
        name,
        "programs waited "
        + ", ".join(f"{wait:.0f} % for {_WAITED_FOR[kind]}" for kind, wait in told.items()),
    )


def _siblings(system: System, ours: list[str], kind: str) -> Iterator[float]:
    """The figures of the cgroups beside ours, at every level."""
    for inner, outer in pairwise(ours):
        for folder in system.folders(outer):
            path = str(folder.relative_to(system.root))
            if path != inner and (wait := some(system.text(f"{path}/{kind}.pressure"))) is not None:
                yield wait
