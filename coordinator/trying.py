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

_AGAIN_SECONDS = 600.0
_PASSING = (OSError, StoreUnavailable, StoreError, CoordinatorError, WireError)


def unforeseen(error: BaseException) -> BaseException | None:
    """For a log's `exc_info`: what nobody foresaw is said with its traceback."""
    return None if isinstance(error, _PASSING) else error


class Trying:
    """`async with trying:` around one step of a loop. What fails in it is said, and the loop goes
    on after a pause, which grows with each failure in a row up to `limit` seconds. The same failure
    is said once in ten minutes, and its end is said. A failure that nobody foresaw, a database's
    own error among them, is said with its traceback."""

    def __init__(self, trouble: str, limit: float = 60.0) -> None:
        self._trouble = trouble
        self._backoff = Backoff(first=1.0, limit=limit)
        self._failures = 0
        self._said, self._said_at = "", 0.0

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            self._over()
            return False
        if not isinstance(error, Exception):  # cancelled: the process ends
            return False
        self._failures += 1
        wait = self._backoff.delay(self._failures, 1.0)
        self._say(error, wait)
        await asyncio.sleep(wait)
        return True

    def _say(self, error: Exception, wait: float) -> None:
        now, said = asyncio.get_running_loop().time(), str(error)
        if said == self._said and now - self._said_at < _AGAIN_SECONDS:
            return
        self._said, self._said_at = said, now
        log.error(
            "%s, next try in %.0f s: %s",
            *(self._trouble, wait, error),
            exc_info=unforeseen(error),
        )

    def _over(self) -> None:
        if self._failures > 1:
            log.info("%s: no more, after %d tries", self._trouble, self._failures)
        self._failures, self._said = 0, ""
