"""The wall clock: is it set at all? A Raspberry Pi has no battery for one.

A schedule's window and a round's history mean nothing before it is. Machines with a clock of their
own are believed; others once the time came over the network, as far as anything here tells that.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import ClassVar, NamedTuple

from edge_agent.config import Config
from edge_agent.signals.services import TIME, flag
from edge_agent.signals.signal import Signal
from edge_agent.signals.system import System

FLOOR = datetime(2026, 1, 1, tzinfo=UTC)
"""This program is younger than that."""

_TIMESYNC = "run/systemd/timesync"


class Timekeeping(NamedTuple):
    """What keeps the clock. `own`: a clock that runs without power. `synchronized`: over the
    network; `None` when nothing tells."""

    own: bool
    synchronized: bool | None


class ClockProbe:
    """Whether the wall clock is set. `now` reads it."""

    name: ClassVar[str] = "clock"
    codes: ClassVar[Mapping[str, str]] = {
        "clock_not_set": "the wall clock is not set yet",
    }

    def __init__(self, config: Config, now: Callable[[], datetime]) -> None:
        self._now = now

    def look(self, system: System) -> Signal:
        return judge(self._now(), observe(system))


def judge(now: datetime, kept: Timekeeping) -> Signal:
    """The signal at this time on the clock."""
    if now < FLOOR:
        return Signal.no("clock", "clock_not_set", f"the clock says {now:%Y-%m-%d %H:%M}")
    if not kept.own and kept.synchronized is False:
        return Signal.no("clock", "clock_not_set", "no time has come over the network yet")
    return Signal.yes("clock", "the clock is set")


def keeps_time(system: System) -> bool:
    """Whether the machine has a clock that runs without power."""
    return bool(system.folders("sys/class/rtc"))


def observe(system: System) -> Timekeeping:
    """What keeps the clock of this machine."""
    return Timekeeping(keeps_time(system), _synchronized(system))


def _synchronized(system: System) -> bool | None:
    told = system.properties(TIME)
    if (synchronized := flag(told, "NTPSynchronized")) is not None:
        # Where the owner has switched that off, it would never come.
        return None if not synchronized and flag(told, "NTP") is False else synchronized
    names = {path.name for path in system.folders(_TIMESYNC)}
    if "synchronized" in names:
        return True
    return False if (system.root / _TIMESYNC).is_dir() else None
