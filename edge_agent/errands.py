"""Errands to the coordinator: one connection each, its bytes counted, cut when a signal turns."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from edge_agent.allowance import while_allowed
from edge_agent.cache import Cache
from edge_agent.errors import AgentError
from edge_agent.state import History, Identity, StateFolder
from edge_agent.transport import Transport
from wire.digest import digest_of
from wire.messages import Assignment, CheckIn, CheckInReply, GiveUp, Published

Refused = Callable[[], Awaitable[str]]
"""Returns why the network may not be used any more, once that is so."""


class Errands:
    """What the agent asks of its coordinator. All raise `TransportError`."""

    def __init__(
        self,
        identity: Identity,
        state: StateFolder,
        cache: Cache,
        history: History,
        refused: Refused,
    ) -> None:
        self._identity = identity
        self._state = state
        self._cache = cache
        self._history = history
        self._refused = refused

    async def check_in(self, message: CheckIn) -> tuple[CheckInReply, AgentError | None]:
        """The coordinator's answer; and why the work in it could not be fetched, over the same
        connection, if so."""
        async with self._connect() as transport:
            reply = await while_allowed(transport.check_in(message), self._refused)
            try:
                if reply.assignment:
                    await self._fetch(transport, reply.assignment)
            except AgentError as error:
                return reply, error
        return reply, None

    async def fetch(self, work: Published) -> None:
        """Have a published plan and model. Raises `StateError`, too."""
        async with self._connect() as transport:
            await self._fetch(transport, work)

    async def upload(self, assignment: str) -> int:
        """Deliver an update; returns its bytes. Raises `StateError`, too."""
        data = await asyncio.to_thread(self._state.update, assignment)
        async with self._connect() as transport:
            sending = transport.upload(assignment, data, digest_of(data))
            await while_allowed(sending, self._refused)
        return len(data)

    async def give_up(self, assignment: str, reason: str, detail: str) -> None:
        """Tell the coordinator, so that it may ask another device."""
        async with self._connect() as transport:
            why = GiveUp(reason=reason, detail=detail[:500])
            await while_allowed(transport.give_up(assignment, why), self._refused)

    async def _fetch(self, transport: Transport, work: Assignment | Published) -> None:
        await while_allowed(self._cache.fetch(transport, work.plan, work.model), self._refused)

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Transport]:
        """A connection for one errand; its bytes are counted, whether it succeeds or not."""
        transport = Transport.of(self._identity)
        try:
            async with transport:
                yield transport
        finally:
            self._history.bytes_up += transport.bytes_up
            self._history.bytes_down += transport.bytes_down
