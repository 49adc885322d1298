"""Requests that are refused since the store does not take them: said when it begins and when it is
over. A line for each, of a fleet that tries again and again, would fill a disk that is full."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

_QUIET_SECONDS = 10.0  # without a refusal: then it is over. Some requests do not need the store.


class Outage:
    """`time` gives seconds, forward only."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self._refused = 0
        self._last = 0.0

    def refused(self, request: str, error: Exception) -> None:
        """The store, or the disk, did not take a request."""
        if not self._refused:
            log.error("%s: storage failed, requests are refused: %s", request, error)
        self._refused += 1
        self._last = self._time()

    def served(self) -> None:
        """A request was answered."""
        if self._refused and self._time() - self._last >= _QUIET_SECONDS:
            log.info("requests are served again, %d were refused", self._refused)
            self._refused = 0
