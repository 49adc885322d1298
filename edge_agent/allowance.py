"""A transfer goes on while the signals allow it, and is cut off when one says no."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from edge_agent.errors import AgentError, Interrupted

T = TypeVar("T")


async def while_allowed(errand: Coroutine[Any, Any, T], refused: Callable[[], Awaitable[str]]) -> T:
    """What `errand` gives, or the `AgentError` that it raises; `Interrupted` as soon as
    `refused` returns, with its reason. Neither outlives the call."""

    async def caught() -> T | AgentError:
        try:
            return await errand
        except AgentError as error:
            return error

    async with asyncio.TaskGroup() as group:
        working = group.create_task(caught())
        watching = group.create_task(_told(refused))
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        watching.cancel()
    if working.cancelled():
        raise Interrupted(watching.result())
    result = working.result()
    if isinstance(result, AgentError):
        raise result
    return result


async def _told(refused: Callable[[], Awaitable[str]]) -> str:
    return await refused()
