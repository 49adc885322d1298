"""A lane: one thread and what waits for it. A batch is worked off together and answered together,
so that many callers cost one commit and one wake-up of the event loop.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from coordinator.store.sql import Steps, StoreUnavailable

log = logging.getLogger(__name__)


class Asked(NamedTuple):
    """A transaction that waits, and who waits for it."""

    transaction: Callable[[], Steps[Any]]
    future: asyncio.Future[Any]


class Answer(NamedTuple):
    """What became of one: `error`, or else `value`."""

    asked: Asked
    value: Any = None
    error: BaseException | None = None


Another = Callable[[], Asked | None]
"""Draws the next that waits already, without waiting for one."""


class Lane:
    """Runs `serve(first, another)` in a thread, which answers `first` and all that it has drawn;
    then `after()`, which nobody waits for. Made and called on the loop's thread."""

    def __init__(
        self,
        name: str,
        serve: Callable[[Asked, Another], list[Answer]],
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self._serve, self._after = serve, after
        self._queue: SimpleQueue[Asked | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closing = False  # on the loop's thread: nothing is taken any more
        self._last = False  # in the lane's own: nothing more will come
        self._drawn: list[Asked] = []
        # A process that ends without closing its store is like one that is killed: nothing that
        # was answered is lost, so nothing has to wait for this thread.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def ask(self, transaction: Callable[[], Steps[Any]]) -> Any:
        """The transaction's result. Raises what it raises, or `StoreUnavailable` after `stop`."""
        if self._closing:
            raise StoreUnavailable("the store is closed")
        asked = Asked(transaction, self._loop.create_future())
        self._queue.put(asked)
        return await asked.future

    def stop(self) -> None:
        """Take nothing more; what was asked is finished. On the loop's thread."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)

    def join(self) -> None:
        """Wait for the end of the thread. Blocking."""
        self._thread.join()

    def _run(self) -> None:
        while not self._last and (first := self._queue.get()) is not None:
            self._drawn = [first]
            try:
                answers = self._serve(first, self._another)
            except BaseException as error:  # whatever it is, nobody is left waiting
                log.exception("the store has an error of its own")
                reason = f"the store has an error of its own: {error}"
                answers = [Answer(a, error=StoreUnavailable(reason)) for a in self._drawn]
            self.tell(_deliver, answers)
            self._drawn = []
            del first, answers  # what they hold is not kept until the next comes
            try:
                self._after()
            except Exception:  # nobody waits for it: say it and go on
                log.exception("the store could not tidy up")

    def tell(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function on the loop's thread, if the loop is still there."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    def _another(self) -> Asked | None:
        if self._last:
            return None
        try:
            asked = self._queue.get_nowait()
        except Empty:
            return None
        if asked is None:
            self._last = True
        else:
            self._drawn.append(asked)
        return asked


def _deliver(answers: list[Answer]) -> None:
    for asked, value, error in answers:
        if asked.future.done():  # whoever asked has given up
            continue
        if error is None:
            asked.future.set_result(value)
        else:
            asked.future.set_exception(error)
