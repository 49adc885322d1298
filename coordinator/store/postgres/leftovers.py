"""Kept updates of closed rounds, deleted piece by piece: no long lock, no long transaction.

Which rounds these are is in the database, so that whichever process comes by goes on with it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from coordinator.store.sql import Steps, StoreUnavailable, rows

log = logging.getLogger(__name__)

_BATCH = 200  # kept updates


class Leftovers:
    """Deletes what transactions have discarded, also those of processes that are gone."""

    def __init__(
        self,
        rounds: Callable[[], Awaitable[list[tuple[str, int]]]],
        delete: Callable[[str, int], Awaitable[bool]],
        interval: float,
    ) -> None:
        """`rounds` are those to be deleted, `delete` a piece of one: true while there is more."""
        self._rounds = rounds
        self._delete = delete
        self._interval = interval
        self._made = asyncio.Event()

    def look(self) -> None:
        """There is something to delete now."""
        self._made.set()

    async def run(self) -> None:
        """Delete until cancelled."""
        while True:
            self._made.clear()
            try:
                for task, number in await self._rounds():
                    while await self._delete(task, number):
                        pass
            except StoreUnavailable as error:
                log.warning("updates of closed rounds are deleted later: %s", error)
            try:
                async with asyncio.timeout(self._interval):
                    await self._made.wait()
            except TimeoutError:
                continue


def discarded() -> Steps[list[tuple[str, int]]]:
    """The rounds whose kept updates are to be deleted."""
    found = yield from rows("SELECT task, round FROM discards")
    return [(row["task"], row["round"]) for row in found]


def delete_some(task: str, number: int) -> Steps[bool]:
    """Delete some of a round's kept updates; whether more are left for us."""
    gone = yield from rows(
        """DELETE FROM payloads WHERE assignment IN (
            SELECT p.assignment FROM payloads p JOIN discards d USING (task, round)
            WHERE p.task = $1 AND p.round = $2 AND p.number <= d.last
            LIMIT $3 FOR UPDATE OF p SKIP LOCKED
        ) RETURNING assignment""",
        task,
        number,
        _BATCH,
    )
    if gone:
        return True
    yield from rows(
        """DELETE FROM discards d WHERE task = $1 AND round = $2 AND NOT EXISTS (
            SELECT FROM payloads p
            WHERE p.task = d.task AND p.round = d.round AND p.number <= d.last
        )""",
        task,
        number,
    )
    return False
