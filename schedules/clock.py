"""Time, as everything here takes it: injected.

Durations run on the monotonic clock, which never jumps and goes on while the machine is
suspended. The wall clock is for people, for windows, and for what must survive a restart.
"""

import sys
import time
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary point; never goes back."""

    def now(self) -> datetime:
        """The wall clock, aware of the local time zone."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        if sys.platform == "linux":
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now().astimezone()


def same_day(date: str, now: datetime) -> bool:
    """Whether an HTTP date is within a day of `now` (aware)."""
    try:
        told = parsedate_to_datetime(date)
        return abs((told - now).total_seconds()) < 86400.0
    except (ValueError, TypeError, OverflowError):
        return False
