"""The database's clock, known without asking: measured against the monotonic clock now and then.

Hosts whose own clocks are wrong agree on it, to within half a round trip.
"""

from schedules.clock import Clock

_SLOWED = 0.5


class DatabaseClock:
    """Goes forward only. Where a measurement says that it was ahead, it goes at half speed until
    the database has caught up: a deadline is never put off for good by a clock that was set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._measured = clock.monotonic()
        self._floor = 0.0  # what it said when it was measured
        self._offset = 0.0  # of the database's clock from the monotonic one

    def now(self) -> float:
        """Seconds since the epoch."""
        monotonic = self._clock.monotonic()
        slowed = self._floor + (monotonic - self._measured) * _SLOWED
        return max(slowed, monotonic + self._offset)

    def take(self, trips: list[tuple[float, float, float]]) -> None:
        """Measure by round trips: (monotonic before, the database's answer, monotonic after). The
        quickest says most; its answer is taken to be of its middle."""
        before, answer, after = min(trips, key=lambda trip: trip[2] - trip[0])
        floor = self.now() if self._floor else answer
        self._measured, self._floor = self._clock.monotonic(), floor
        self._offset = answer - (before + after) / 2
