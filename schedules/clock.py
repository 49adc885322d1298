"""Time, as everything here takes it: injected.

Durations run on the monotonic clock, which never jumps and goes on while the machine is
suspended. The wall clock is for people, for windows, and for what must survive a restart.
"""

import math
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


def skew(date: str, now: datetime) -> float:
    """Seconds between an HTTP date and `now` (aware), whichever is ahead; infinite when it is no
    date."""
    try:
        return abs((parsedate_to_datetime(date) - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return math.inf
