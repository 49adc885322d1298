"""What the day and the month cost this device: counted at each look at the signals, each second
and byte once.

`History.spent` holds it; it is on the disk when the history is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_agent import budget
from edge_agent.budget import Spent
from edge_agent.state import History
from edge_agent.traffic import Traffic
from schedules.clock import Clock


class Costs:
    """Counts into `history`; `moving` is the traffic of the errand under way."""

    def __init__(self, history: History, clock: Clock, moving: Callable[[], Traffic]) -> None:
        self._history = history
        self._clock = clock
        self._moving = moving
        self._trains_since: float | None = None
        self._traffic_before = self.traffic()

    def count(self) -> Spent:
        """The costs up to now.

        What has come since the last time counts for the day that it is now: call this often.
        """
        now, traffic = self._clock.now(), self.traffic()
        spent = budget.add_traffic(self._history.spent, traffic.minus(self._traffic_before), now)
        self._traffic_before = traffic
        if self._trains_since is not None:
            seconds = self._clock.monotonic() - self._trains_since
            spent = budget.add_training(spent, seconds, now)
            self._trains_since += seconds
        self._history.spent = spent
        return spent

    @contextmanager
    def training(self) -> Iterator[None]:
        """Each second in here counts."""
        self._trains_since = self._clock.monotonic()
        try:
            yield
        finally:
            self.count()
            self._trains_since = None

    def traffic(self) -> Traffic:
        """All that was ever sent and received, the errand under way included."""
        return Traffic(self._history.bytes_up, self._history.bytes_down).plus(self._moving())
