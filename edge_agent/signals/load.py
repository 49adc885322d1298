"""How busy others keep the processor. Training counts as ours, whatever its number of threads."""

import re
from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from edge_agent.config import Config
from edge_agent.signals.ours import OwnPids, no_children
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import System

_SHORTEST = 10  # ticks of a processor, hundredths of a second: less is too short to tell
_PROCESSOR = re.compile(r"^cpu\d+ ", re.MULTILINE)
_STAT_FIELDS = slice(11, 15)  # after the name: user and system ticks, then those of reaped children


class Ticks(NamedTuple):
    """Processor time since the machine's start, in ticks, of all its `processors` together; `own`
    is this process's and its children's."""

    total: int
    idle: int
    own: int
    processors: int


class LoadProbe:
    """The load is that between two looks, so the first one does not know it.

    `own_pids` are the children that run; those that ended are in our own account.
    """

    name: ClassVar[str] = "load"
    codes: ClassVar[Mapping[str, str]] = {
        "busy": "other programs use more of the processor than `max_busy`",
        "load_unknown": "the load is being measured: it is that between two looks",
    }

    def __init__(self, config: Config, own_pids: OwnPids = no_children) -> None:
        self._limit = config.eligibility.max_busy
        self._own_pids = own_pids
        self._last: Ticks | None = None
        self._busy: float | None = None

    def look(self, system: System) -> Signal:
        """The load since the last look; a look too soon after it repeats its figure."""
        now = read(system, self._own_pids())
        if now is None:
            return Signal.yes(self.name, "the kernel does not tell the load")
        if self._last is None or _starts_anew(self._last, now):
            self._last = now
        elif now.total - self._last.total >= _SHORTEST * now.processors:
            self._busy = busy(self._last, now)
            self._last = now
        return judge(self._busy, self._limit)


def read(system: System, pids: Iterable[int] = ()) -> Ticks | None:
    """The machine's account now, with that of these children of ours; `None` without procfs."""
    text = system.text("proc/stat")
    fields = text.partition("\n")[0].split()
    if len(fields) < 6 or fields[0] != "cpu":
        return None
    times = [int(field) for field in fields[1:9]]  # guests' time, after these, is in them already
    idle = sum(times[3:5])  # waiting for a disk is idle, too: it has a signal of its own
    own = sum(_account(system, process) for process in ["self", *map(str, pids)])
    return Ticks(sum(times), idle, own, max(1, len(_PROCESSOR.findall(text))))


def busy(before: Ticks, after: Ticks) -> float:
    """Percent of all processors that others used between two readings."""
    elapsed = after.total - before.total
    others = elapsed - (after.idle - before.idle) - (after.own - before.own)
    return min(100.0, max(0.0, 100.0 * others / elapsed))


def judge(load: float | None, limit: float) -> Signal:
    """Whether others leave enough of the processor."""
    name = LoadProbe.name
    if limit >= 100.0:
        return Signal.yes(name, "any load will do")
    if load is None:
        return Signal.no(name, "load_unknown", "measuring the load")
    observed = f"other programs use {load:.0f} % of the processor"
    if load > limit:
        return Signal.no(name, "busy", f"{observed}, at most {limit:.0f} % wanted")
    return Signal.yes(name, observed)


def _starts_anew(before: Ticks, after: Ticks) -> bool:
    """Whether an account went back, so that nothing can be told: a processor was taken out, or a
    child is not told any more and not reaped yet."""
    return after.total < before.total or after.own < before.own


def _account(system: System, process: str) -> int:
    """Ticks of a process and of its children that it has reaped; 0 when it is gone."""
    # The name, in parentheses, may hold anything.
    fields = system.text(f"proc/{process}/stat").rpartition(")")[2].split()[_STAT_FIELDS]
    return sum(int(field) for field in fields)
