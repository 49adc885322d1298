"""May the device work now? Pure: signals in, a verdict out.

All signals must say yes for some time before work starts; one that says no ends it at once.
What protects the owner (power, network, time, consent) counts as no when it is not known; what a
machine may lack (a thermometer, pressure events) counts as yes.
"""

import math
from typing import NamedTuple

from edge_agent.signals.signal import Signal
from schedules.duration import human

SETTLING = "settling"
CODES = {SETTLING: "all signals say yes, but not yet for long enough (`eligibility.settle`)"}
_SENDING = frozenset({"consent", "network", "traffic_budget", "clock"})


class Verdict(NamedTuple):
    """All signals together. `settles_in`: seconds until they have held for long enough."""

    signals: tuple[Signal, ...]
    settles_in: float = 0.0

    @property
    def eligible(self) -> bool:
        """Whether the device may train."""
        return all(s.ok for s in self.signals)

    @property
    def may_send(self) -> bool:
        """Whether the network may be used: enough to deliver what was trained before."""
        return all(s.ok for s in self.signals if s.name in _SENDING)

    @property
    def measuring(self) -> bool:
        """Whether the load is not known yet: it is that between two looks."""
        return any(s.code == "load_unknown" for s in self.signals)

    @property
    def refusals(self) -> tuple[Signal, ...]:
        """The signals that say no."""
        return tuple(s for s in self.signals if not s.ok)

    def why(self) -> str:
        """The refusals in one line, `eligible` when there is none."""
        return "; ".join(f"{s.code}: {s.observed}" for s in self.refusals) or "eligible"


class Settling:
    """The hysteresis: signals must say yes for `seconds` without a break. Starts unsettled."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since = math.inf

    def judge(self, signals: tuple[Signal, ...], now: float) -> Verdict:
        """The verdict at `now`, in seconds on the monotonic clock."""
        if not all(s.ok for s in signals):
            self._since = math.inf
            return Verdict(signals)
        self._since = min(self._since, now)
        left = self._since + self._seconds - now
        if left <= 0:
            return Verdict(signals)
        observed = f"all signals must say yes for {human(left)} more"
        return Verdict((*signals, Signal.no("settled", SETTLING, observed)), left)
