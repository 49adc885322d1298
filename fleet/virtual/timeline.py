"""Virtual time: what is to happen, in order. Two things at one moment happen as they were said."""

import heapq
import math
from collections.abc import Callable
from random import Random


class Timeline:
    """A clock that leaps from event to event. `now` is in seconds from the start, `events` how many
    were played."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.events = 0
        self.random = Random(seed)  # noqa: S311 - plays a fleet, guards nothing
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._said = 0
        self._stopped = False

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Let `event` happen at `when`, or now when that has passed."""
        self._said += 1
        when = when if when > self.now else self.now
        heapq.heappush(self._waiting, (when, self._said, event))

    def stop(self) -> None:
        """Play nothing more."""
        self._stopped = True

    def run(self, limit: float, watch: Callable[[float], None]) -> bool:
        """Play all events up to `limit`, telling `watch` the time before each and after the last.
        Whether every event was played."""
        waiting = self._waiting
        while waiting and waiting[0][0] <= limit and not self._stopped:
            self.now, _, event = heapq.heappop(waiting)
            watch(self.now)
            event()
            self.events += 1
        watch(self.now)
        return not waiting

    def exponential(self, mean: float) -> float:
        """A random time of this mean."""
        return -math.log(1.0 - self.random.random()) * mean


def later(now: float, seconds: float) -> float:
    """The moment in `seconds`. Time moves on for any wait above 0, however short."""
    then = now + seconds
    return then if then > now or seconds <= 0 else math.nextafter(now, math.inf)
