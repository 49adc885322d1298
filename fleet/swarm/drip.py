"""Uploads that take minutes: thousands of connections, each sending a little every second."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from fleet.swarm.line import Answer, AnswerReader, Unreadable
from fleet.swarm.mould import Body
from fleet.swarm.scripts import Said, announcement, append_head, said, update_path
from fleet.swarm.swarm import Target, raise_file_limit

_OPENING = 64  # connections that are opened at a time: a listener's queue is short
_TURNS = 20  # parts of a second: each upload sends in one of them


class SlowUpload(NamedTuple):
    """An update that a device sends slowly."""

    secret: str
    assignment: str
    body: Body


class Ended(NamedTuple):
    """An upload that goes on no more: when, in seconds since the epoch, and what was said; `None`
    when the connection broke."""

    at: float
    said: Said | None


class _Drip(asyncio.Protocol):
    """One upload: announced, then dripping, then ended."""

    def __init__(self, upload: SlowUpload, ended: list[Ended]) -> None:
        self._upload = upload
        self._ended = ended
        self._reader = AnswerReader()
        self._transport: asyncio.Transport
        self._position = -1
        self.dripping = False
        self.over = False
        self.answered = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(announcement(*self._upload))

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            answer = self._reader.feed(data)
        except Unreadable:
            self._end(None)
            return
        if answer is not None:
            self._answered(answer)

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end(None)

    def drip(self, size: int) -> None:
        """Send the next `size` bytes, if there are any."""
        if not self.dripping or self._position >= self._upload.body.length:
            return
        front, tail = self._upload.body
        start, self._position = self._position, self._position + size
        behind = max(start - len(front), 0), max(start + size - len(front), 0)
        self._transport.write(front[start : start + size] + tail[slice(*behind)])

    def abort(self) -> None:
        """End the connection without a word."""
        self.over, self.dripping = True, False
        self._transport.abort()

    def _answered(self, answer: Answer) -> None:
        self.answered.set()
        if self.dripping or answer.status != 201:
            self._end(said(answer))
            return
        secret, assignment, body = self._upload
        self._position = int(answer.header(b"upload-offset"))
        path = update_path(assignment)
        self._transport.write(append_head(path, secret, self._position, body.length))
        self.dripping = True

    def _end(self, what: Said | None) -> None:
        self.answered.set()
        if not self.over:
            self.over, self.dripping = True, False
            self._ended.append(Ended(time.time(), what))


class Drips:
    """Slow uploads under way. `ended` are those that go on no more, in that order."""

    def __init__(self, target: Target, bytes_per_second: int) -> None:
        self._target = target
        self._size = bytes_per_second
        self._drips: list[_Drip] = []
        self.ended: list[Ended] = []

    @property
    def held(self) -> int:
        """Uploads that were taken by the coordinator, and neither answered nor cut yet."""
        return sum(drip.dripping for drip in self._drips)

    async def open(self, uploads: Iterable[SlowUpload], seconds: float) -> None:
        """Connect and announce them all, a few at a time, for so many seconds at most: see `held`
        for what has come of it. Raises `OSError`."""
        waiting = iter(uploads)
        try:
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for _ in range(_OPENING):
                    group.create_task(self._open(waiting))
        except TimeoutError:
            pass
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _open(self, uploads: Iterator[SlowUpload]) -> None:
        for upload in uploads:
            drip = _Drip(upload, self.ended)
            await self._target.connect(drip)
            self._drips.append(drip)
            await drip.answered.wait()

    async def run(self) -> None:
        """Send, each upload once a second, until cancelled."""
        loop = asyncio.get_running_loop()
        due, turn = loop.time(), 0
        while True:
            for drip in self._drips[turn::_TURNS]:
                drip.drip(self._size)
            turn = (turn + 1) % _TURNS
            due = max(due + 1 / _TURNS, loop.time() - 1)  # late is late: no burst makes up for it
            await asyncio.sleep(max(0.0, due - loop.time()))

    def abort(self) -> None:
        """End every connection."""
        for drip in self._drips:
            drip.abort()


@asynccontextmanager
async def dripping(url: str, bytes_per_second: int = 1000) -> AsyncIterator[Drips]:
    """Slow uploads; `open` them. On the way out every connection is ended."""
    raise_file_limit()
    drips = Drips(Target(url), bytes_per_second)
    try:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(drips.run())
            try:
                yield drips
            finally:
                sending.cancel()
                drips.abort()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
