"""Virtual time: what is to happen, in order. Two things at one moment happen as they were said."""

import heapq
import math
from collections.abc import Callable
from random import Random


class Timeline:
    """A clock that leaps from event to event. `now` is in seconds from the start."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = Random(seed)  # noqa: S311 - plays a fleet, guards nothing
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._said = 0

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Let `event` happen at `when`, or now when that has passed."""
        self._said += 1
        heapq.heappush(self._events, (max(when, self.now), self._said, event))

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let `event` happen in `seconds`. Time moves on for any wait above 0, however short."""
        least = math.nextafter(self.now, math.inf) if seconds > 0 else self.now
        self.at(max(self.now + seconds, least), event)

    def run(self, limit: float, watch: Callable[[float], None]) -> bool:
        """Play all events up to `limit`, telling `watch` the time before each and after the last.
        Whether every event was played."""
        while self._events and self._events[0][0] <= limit:
            self.now, _, event = heapq.heappop(self._events)
            watch(self.now)
            event()
        watch(self.now)
        return not self._events

    def exponential(self, mean: float) -> float:
        """A random time of this mean."""
        return self.random.expovariate(1.0 / mean)
