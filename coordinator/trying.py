"""Work that goes on for as long as the process: a trouble that passes must not end it, and none may
end it unheard."""

import asyncio
import logging
from types import TracebackType

from coordinator.errors import CoordinatorError
from coordinator.store.sql import StoreError, StoreUnavailable
from schedules.backoff import Backoff
from wire.errors import WireError

log = logging.getLogger(__name__)

_PASSING = (OSError, StoreUnavailable, StoreError, CoordinatorError, WireError)


def unforeseen(error: BaseException) -> BaseException | None:
    """For a log's `exc_info`: what nobody foresaw is said with its traceback."""
    return None if isinstance(error, _PASSING) else error


class Trying:
    """`async with trying:` around one step of a loop. What fails in it is said, and the loop goes
    on after a pause, which grows with each failure in a row up to `limit` seconds. A failure that
    nobody foresaw, a database's own error among them, is said with its traceback."""

    def __init__(self, trouble: str, limit: float = 60.0) -> None:
        self._trouble = trouble
        self._backoff = Backoff(first=1.0, limit=limit)
        self._failures = 0

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            self._failures = 0
            return False
        if not isinstance(error, Exception):  # cancelled: the process ends
            return False
        self._failures += 1
        wait = self._backoff.delay(self._failures, 1.0)
        log.error(
            "%s, next try in %.0f s: %s",
            *(self._trouble, wait, error),
            exc_info=unforeseen(error),
        )
        await asyncio.sleep(wait)
        return True
