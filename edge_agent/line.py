"""A connection to the coordinator: one request at a time, each of them within bounds.

A connection lives for one errand and is closed before training. Every wait has a bound
(`edge_agent.pace`). Every answer is held to a size before it is read. Errors are `Offline` or
`Rejected`, and `Interrupted` when a budget is spent; nothing else leaves.
"""

import asyncio
import errno
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from edge_agent.address import check_url, trust
from edge_agent.errors import ConfigError, Interrupted, Offline, Rejected, Silent, one_line
from edge_agent.pace import Pace, Patience, Waits
from edge_agent.sockets import Sockets
from edge_agent.state import Identity
from edge_agent.traffic import Allowance, Traffic
from wire.errors import WireError
from wire.messages import MESSAGE_LIMIT, Problem
from wire.strict import decode_json

T = TypeVar("T", bound=msgspec.Struct)


class Line:
    """`async with Line(...)`: one errand's connection. `pace` is what is known of the link; what is
    seen of it is added there."""

    def __init__(
        self,
        url: str,
        secret: str,
        ca: str | None = None,
        insecure_http: bool = False,
        waits: Waits = Waits(),  # noqa: B008 - immutable
        pace: Pace | None = None,
    ) -> None:
        if not secret.isascii() or not secret.isprintable():
            raise ConfigError("a token or secret has printable ASCII characters only")
        self._url = check_url(url, insecure_http)
        self._secret = secret
        self._ca = ca
        self._waits = waits
        self._pace = pace or Pace()
        self._sockets = Sockets(waits.silence)
        self._before = 0  # bytes that came before the request that is under way
        self.date = ""
        """When the last answer was made by the server's clock, as HTTP says it; empty if not."""

    @classmethod
    def of(cls, identity: Identity, pace: Pace | None = None) -> Self:
        """That of an enrolled device."""
        return cls(identity.url, identity.secret, identity.ca, identity.insecure_http, pace=pace)

    async def __aenter__(self) -> Self:
        tls: ssl.SSLContext | bool = True
        if self._ca is not None:
            tls = await asyncio.to_thread(trust, self._ca)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=2, socket_factory=self._sockets.make),
            # Nothing is decompressed, so nothing may be compressed unless a request asks for it:
            # aiohttp's own header would, and proxies do it for those who ask.
            headers={"Authorization": f"Bearer {self._secret}", "Accept-Encoding": "identity"},
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            self.cut()
        await self._session.close()
        self._sockets.over = True

    @property
    def moved(self) -> Traffic:
        """Bytes on the wire so far: see `edge_agent.sockets`."""
        return self._sockets.moved

    @property
    def allowance(self) -> Allowance:
        """What may be sent and received; set it before the first request."""
        return self._sockets.allowance

    @allowance.setter
    def allowance(self, allowance: Allowance) -> None:
        self._sockets.allowance = allowance

    def cut(self) -> None:
        """Not a byte more: what waits in buffers, ours and the kernel's, is thrown away."""
        self._sockets.cut()

    def _spend(self, more: int) -> None:
        """Raises `Interrupted` when the allowance does not hold an answer of `more` bytes, some of
        which may be here."""
        here = self._sockets.moved.down - self._before
        try:
            self._sockets.hold(Traffic(0, max(0, more - here)))
        except OSError:
            self.cut()  # what was sent may arrive, but what comes must not
            raise _overdrawn() from None

    async def _post(self, path: str, message: msgspec.Struct, kind: type[T]) -> T:
        body = msgspec.json.encode(message)
        async with self._request("POST", path, body) as answer:
            return await self._decode(answer, kind)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        sent: int = 0,
        read: int = 0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request that moves so many bytes, beyond those of a control message; `read` at most,
        the answer says how many. Every failure of the network becomes `Offline`, every error
        document `Rejected`."""
        clock = asyncio.get_running_loop().time
        self._before = self._sockets.moved.down
        progress = self._sockets.progress
        # Until its head is here, an answer gets no time for its body.
        patience = Patience(self._waits, self._pace, Traffic(sent, 0), progress, clock())
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._waits.connect)
        try:
            async with asyncio.timeout(None) as bound:
                with self._watched(patience, bound):
                    async with self._session.request(
                        method,
                        self._url + path,
                        data=body,
                        headers=headers,
                        timeout=timeout,
                        allow_redirects=False,
                    ) as answer:
                        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                            raise await self._rejection(answer)
                        self.date = answer.headers.get("Date", "")
                        patience.expect(Traffic(sent, min(read, answer.content_length or read)))
                        yield answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if self._sockets.overdrawn:
                raise _overdrawn() from None
            if isinstance(error, Offline):
                raise
            dead = isinstance(error, TimeoutError) or getattr(error, "errno", 0) == errno.ETIMEDOUT
            kind = Silent if dead else Offline
            if dead:  # the kernel would try on
                self.cut()
            reason = patience.why or one_line(str(error)) or type(error).__name__
            raise kind(f"{self._url} does not answer: {reason}") from error

    @contextmanager
    def _watched(self, patience: Patience, bound: asyncio.Timeout) -> Iterator[None]:
        """Let `bound` end as soon as patience does. What the kernel has taken is not yet sent, so
        it is asked what the other side has acknowledged."""
        loop = asyncio.get_running_loop()
        next_look: asyncio.Handle

        def look() -> None:
            nonlocal next_look
            if wait := patience.look(self._sockets.progress, loop.time()):
                next_look = loop.call_later(wait, look)
            else:
                with suppress(RuntimeError):  # it ends at this moment
                    bound.reschedule(loop.time())

        next_look = loop.call_soon(look)
        try:
            yield
        finally:
            next_look.cancel()
            patience.end(self._sockets.progress, loop.time())

    async def _rejection(self, answer: aiohttp.ClientResponse) -> Rejected:
        data = await self._read(answer, MESSAGE_LIMIT)
        try:
            problem = decode_json(data, Problem, MESSAGE_LIMIT)
        except WireError:  # not ours: a proxy's page, or another server altogether
            return Rejected(answer.status, f"http_{answer.status}", one_line(answer.reason or ""))
        return Rejected(answer.status, one_line(problem.code), one_line(problem.detail))

    async def _decode(self, answer: aiohttp.ClientResponse, kind: type[T]) -> T:
        data = await self._read(answer, MESSAGE_LIMIT)
        try:
            return decode_json(data, kind, MESSAGE_LIMIT)
        except WireError as error:
            raise Offline(
                f"{self._url} does not speak this protocol: {one_line(error.detail)}"
            ) from None

    async def _read(self, answer: aiohttp.ClientResponse, limit: int) -> bytes:
        data = bytearray()
        async for chunk in answer.content.iter_any():
            self._spend(0)
            data += chunk
            if len(data) > limit:
                raise Offline(f"{self._url} sends more than {limit} bytes")
        if self._sockets.overdrawn:  # an answer without a length ends where its connection does
            raise _overdrawn()
        return bytes(data)


def _overdrawn() -> Interrupted:
    error = Interrupted("bytes_spent: what is left of the traffic budget does not hold it")
    error.transient = False
    return error
