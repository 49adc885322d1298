"""Check-in pacing: the coordinator tells each device when to come back.

A window, not a time: each device picks a moment in it at random, so that a large population is
spread out and does not stampede (Bonawitz et al., 2019, section 2.3, pace steering).
"""

from typing import NamedTuple

CHECK_INS_PER_SECOND = 100.0
"""What one coordinator is asked to bear; a larger population waits longer instead."""


class RetryWindow(NamedTuple):
    """Come back between `after` and `before` seconds from now."""

    after: float
    before: float

    def pick(self, fraction: float) -> float:
        """The moment at `fraction` (0 to 1) of the window, in seconds from now."""
        return self.after + fraction * (self.before - self.after)


def retry_window(wait: float, interval: float, population: int) -> RetryWindow:
    """A window that opens in `wait` seconds.

    `interval` is the schedule's usual wait between check-ins; `population` the number of devices
    that may come back in the window. It is as wide as the interval, or wider when that many
    devices would be more than `CHECK_INS_PER_SECOND`: each waits half the width on average, so n
    devices that come back again and again make 2 n / width check-ins a second.
    """
    width = max(interval, 2 * population / CHECK_INS_PER_SECOND)
    return RetryWindow(max(wait, interval / 2), max(wait, interval / 2) + width)
