"""How fast a body must come. Pure: times and bytes in, a verdict out."""

SILENCE_SECONDS = 30.0
"""A body that brings nothing for so long is given up."""
GRACE_SECONDS = 30.0
"""For so long a body may begin slowly."""
WINDOW_SECONDS = 60.0
LEAST_BYTES_PER_SECOND = 100.0
"""On average over each window: a modem does better, and who only wants to hold a connection open
has to work for it."""
MESSAGE_SECONDS = 30.0
"""A whole control message takes no longer: it is a few kilobytes."""


class Pace:
    """One body's. `within`: seconds that all of it may take; `None` asks for a rate instead."""

    def __init__(self, now: float, within: float | None = None) -> None:
        self._end = None if within is None else now + within
        self._window = now + GRACE_SECONDS + WINDOW_SECONDS  # the end of the one that runs
        self._bytes = 0
        self._counts_from = now + GRACE_SECONDS

    def patience(self, now: float) -> float:
        """Seconds for which the next bytes may be awaited."""
        if self._end is None:
            return SILENCE_SECONDS
        return max(0.0, min(SILENCE_SECONDS, self._end - now))

    def too_slow(self, number: int, now: float) -> bool:
        """So many bytes came: whether the body is too slow by now."""
        if self._end is not None:
            return now > self._end
        if now > self._counts_from:
            self._bytes += number
        if now < self._window:
            return False
        slow = self._bytes < LEAST_BYTES_PER_SECOND * WINDOW_SECONDS
        self._bytes, self._window = 0, now + WINDOW_SECONDS
        return slow
