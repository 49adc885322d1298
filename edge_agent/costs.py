"""What the day costs this device, at each moment: what is over is counted once, what runs is added.

`History.spent` holds what is over; it is on the disk when the history is.
"""

from collections.abc import Callable

from edge_agent import budget
from edge_agent.budget import Spent
from edge_agent.state import History
from schedules.clock import Clock


class Costs:
    """Counts into `history`; `moving` are the bytes of the errand under way, sent and received."""

    def __init__(self, history: History, clock: Clock, moving: Callable[[], int]) -> None:
        self._history = history
        self._clock = clock
        self._moving = moving
        self._training_since: float | None = None
        self._counted = self._traffic()

    def spent(self) -> Spent:
        """The day's costs, with what runs just now."""
        now = self._clock.now()
        spent = budget.add_traffic(self._history.spent, self._traffic() - self._counted, now)
        if self._training_since is None:
            return spent
        seconds = self._clock.monotonic() - self._training_since
        return budget.add_training(spent, seconds, now)

    def training(self) -> None:
        """A training begins; `settle` ends it."""
        self._training_since = self._clock.monotonic()

    def settle(self) -> None:
        """What was done is counted, once."""
        self._history.spent = self.spent()
        self._training_since, self._counted = None, self._traffic()

    def _traffic(self) -> int:
        return self._history.bytes_up + self._history.bytes_down + self._moving()
