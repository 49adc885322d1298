"""Loops that must not end: what fails in one is said, and it goes on."""

import asyncio
import logging
import sqlite3

import pytest

from coordinator.store.sql import StoreUnavailable
from coordinator.trying import Trying


async def _run(trying: Trying, failures: list[Exception]) -> int:
    """Steps that were done, one after each failure and one at the end."""
    rounds, left = 0, list(failures)
    while left:
        async with trying:
            rounds += 1
            raise left.pop(0)
    async with trying:
        rounds += 1
    return rounds


@pytest.mark.parametrize(
    "error", [StoreUnavailable("full"), OSError("gone"), sqlite3.DatabaseError("bad"), KeyError(1)]
)
async def test_a_loop_survives_any_error_and_says_it(error, caplog):
    trying = Trying("nothing is counted", limit=0.0)
    with caplog.at_level(logging.INFO):
        assert await _run(trying, [error, error]) == 3
    failed, over = caplog.records  # the same is not said twice, and its end is
    assert (failed.levelno, over.levelno) == (logging.ERROR, logging.INFO)
    assert "nothing is counted" in failed.getMessage()
    assert over.getMessage() == "nothing is counted: no more, after 2 tries"


async def test_another_failure_is_said_at_once(caplog):
    await _run(Trying("x", limit=0.0), [OSError("full"), OSError("gone"), OSError("gone")])
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert [line.rpartition(": ")[2] for line in said] == ["full", "gone"]


async def test_what_nobody_foresaw_has_a_traceback_what_passes_has_none(caplog):
    await _run(Trying("x", limit=0.0), [StoreUnavailable("full"), KeyError("bug")])
    assert [record.exc_info is not None for record in caplog.records] == [False, True]


async def test_a_loop_that_is_cancelled_ends():
    async def for_ever() -> None:
        trying = Trying("x", limit=0.0)
        while True:
            async with trying:
                await asyncio.Event().wait()

    task = asyncio.create_task(for_ever())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
