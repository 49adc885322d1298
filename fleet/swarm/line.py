"""One keep-alive connection: a bare protocol that drives scripts, with no task a request."""

import asyncio
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

HEAD_LIMIT = 1 << 16
_END = b"\r\n\r\n"


class Unreadable(Exception):
    """An answer that a swarm cannot read: too long a head, or a body of no stated length."""


class Answer(NamedTuple):
    """An answer. `head` is its status line and headers, in lower case."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes:
        """A header's value by its name in lower case; empty if it is not there."""
        _, found, rest = self.head.partition(b"\r\n" + name + b":")
        return rest.partition(b"\r\n")[0].strip() if found else b""

    @property
    def closes(self) -> bool:
        """Whether the server ends the connection after it."""
        return self.header(b"connection") == b"close"


Script = Generator[bytes, Answer, T]
"""What one device asks: yields requests, is sent their answers, returns what came of it."""


class AnswerReader:
    """Answers from the bytes of one connection."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Answer | None:
        """The next answer once it is whole. Raises `Unreadable`."""
        held = self._held = self._held + data if self._held else data
        end = held.find(_END)
        if end < 0:
            if len(held) > HEAD_LIMIT:
                raise Unreadable(f"an answer's head of over {HEAD_LIMIT} bytes")
            return None
        try:
            answer = Answer(int(held[9:12]), held[:end].lower(), b"")
            length = 0 if answer.status == 204 else int(answer.header(b"content-length"))
        except ValueError:
            raise Unreadable(f"not an answer of stated length: {held[:end]!r}") from None
        if len(held) < (after := end + len(_END) + length):
            return None
        self._held = held[after:]
        return answer._replace(body=held[end + len(_END) : after])


@dataclass
class Tally(Generic[T]):
    """What came of scripts. `results`: of those that ran to their end, in that order. `lost`: those
    whose connection broke. `unfinished`: those that were cut when time was up; what was not begun
    is not counted. `seconds` is how long the whole took."""

    results: list[T] = field(default_factory=list)
    lost: int = 0
    unfinished: int = 0
    seconds: float = 0.0


class Line(asyncio.Protocol, Generic[T]):
    """A connection that takes one script after the other from those that it shares with others."""

    def __init__(self) -> None:
        self._reader = AnswerReader()
        self._script: Script[T] | None = None
        self._scripts: Iterator[Script[T]] = iter(())
        self._tally: Tally[T] = Tally()
        self._done: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport
        self.open = False

    async def drive(self, scripts: Iterator[Script[T]], tally: Tally[T]) -> bool:
        """Run scripts until there are no more, then True; False when the connection has ended.

        Raises what a script raises.
        """
        self._scripts, self._tally = scripts, tally
        self._done = asyncio.get_running_loop().create_future()
        self._next()
        await self._done
        return self.open

    @property
    def busy(self) -> bool:
        """Whether a script is under way."""
        return self._script is not None

    def abort(self) -> None:
        """End the connection at once; a script that is under way is unfinished."""
        if self._script is not None:
            self._tally.unfinished += 1
            self._drop()
        self._end()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            answer = self._reader.feed(data)
        except Unreadable:
            self._end()
            return
        if answer is None or self._script is None:
            return
        goes_on = self._step(answer)
        if answer.closes:
            self._end()  # a script in mid-course is lost: see `Tally`
        elif not goes_on:
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end()

    def _next(self) -> None:
        """Begin the next script that asks for anything."""
        for script in self._scripts:
            self._script = script
            if self._step(None):
                return
        self._finish()

    def _step(self, answer: Answer | None) -> bool:
        """Send the script's next request; False when it has none and another may begin."""
        assert self._script is not None
        try:
            asked = next(self._script) if answer is None else self._script.send(answer)
        except StopIteration as end:
            self._script = None
            self._tally.results.append(end.value)
            return False
        except Exception as error:  # noqa: BLE001 - a script's failure is its caller's, in `drive`
            self._script = None
            self._finish(error)
            return True
        self._transport.write(asked)
        return True

    def _end(self) -> None:
        self.open = False
        self._transport.abort()
        if self._script is not None:
            self._tally.lost += 1
            self._drop()
        self._finish()

    def _drop(self) -> None:
        assert self._script is not None
        self._script.close()
        self._script = None

    def _finish(self, error: Exception | None = None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
