"""What every route shares: credentials, bounded messages, and errors as RFC 9457 documents."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NoReturn, TypeVar

import msgspec
from aiohttp import web

from coordinator.errors import CoordinatorError, Denied, Refused, TooLarge, Unavailable
from coordinator.http.outage import Outage
from coordinator.http.pace import MESSAGE_SECONDS, Pace
from coordinator.service import Coordinator
from coordinator.store.records import DeviceRecord
from coordinator.store.sql import StoreError, StoreUnavailable
from wire.errors import Rule, WireError
from wire.messages import MESSAGE_LIMIT, PROBLEM_TYPE, Problem
from wire.strict import decode_json

log = logging.getLogger(__name__)

COORDINATOR = web.AppKey("coordinator", Coordinator)
OUTAGE = web.AppKey("outage", Outage)

T = TypeVar("T", bound=msgspec.Struct)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
DeviceHandler = Callable[[web.Request, DeviceRecord], Awaitable[web.StreamResponse]]


def coordinator_of(request: web.Request) -> Coordinator:
    """The coordinator behind this application."""
    return request.app[COORDINATOR]


def bearer(request: web.Request) -> str:
    """The request's credential. Raises `Denied`."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Denied("no_credential", "send 'Authorization: Bearer ...'")
    return token.strip()


def for_admin(handler: Handler) -> Handler:
    """A route for the administrator alone."""

    async def checked(request: web.Request) -> web.StreamResponse:
        coordinator_of(request).check_admin(bearer(request))
        return await handler(request)

    return checked


def is_admin(request: web.Request) -> bool:
    """Whether the administrator asks, where others may, too."""
    try:
        coordinator_of(request).check_admin(bearer(request))
    except Denied:
        return False
    return True


def for_device(handler: DeviceHandler) -> Handler:
    """A route for enrolled devices; the handler gets the device."""

    async def checked(request: web.Request) -> web.StreamResponse:
        device = await coordinator_of(request).devices.check(bearer(request))
        return await handler(request, device)

    return checked


async def message(request: web.Request, kind: type[T], limit: int = MESSAGE_LIMIT) -> T:
    """The request's JSON body, of at most `limit` bytes. Raises `Refused` or `TooLarge`."""
    return decoded(await message_bytes(request, limit), kind)


async def message_bytes(request: web.Request, limit: int = MESSAGE_LIMIT) -> bytes:
    """The bytes of a control message, all of them within half a minute. Raises `TooLarge`."""
    return await _whole(request, limit, MESSAGE_SECONDS)


def decoded(data: bytes, kind: type[T]) -> T:
    """A message's bytes as `kind`. Raises `Refused`."""
    try:
        return decode_json(data, kind, MESSAGE_LIMIT)
    except WireError as error:
        raise Refused(str(error.code), error.detail) from None


async def body(request: web.Request, limit: int) -> bytes:
    """The request's body, of at most `limit` bytes, however long it takes at a fair pace."""
    return await _whole(request, limit, None)


async def _whole(request: web.Request, limit: int, within: float | None) -> bytes:
    if (request.content_length or 0) > limit:
        raise TooLarge("too_large", f"a body of {request.content_length} bytes; at most {limit}")
    received, incoming = bytearray(), Body(request, within)
    while chunk := await incoming.next():
        received += chunk
        if len(received) > limit:
            raise TooLarge("too_large", f"a body of over {limit} bytes")
    return bytes(received)


class Body:
    """A request's body as it comes, at a pace that must not be too slow: see `http.pace`."""

    def __init__(self, request: web.Request, within: float | None = None) -> None:
        self._request = request
        self._content = request.content
        self._time = asyncio.get_running_loop().time
        self._pace = Pace(self._time(), within)

    async def next(self) -> bytes:
        """The next bytes, empty at the end. Raises `OSError` when the client is gone or slow."""
        try:
            chunk = self._content.read_nowait()
            # One that is here in full needs no timer, which takes longer than to read it.
            if not chunk and not self._content.at_eof():
                chunk = await self._wait()
        except (web.PayloadAccessError, web.RequestPayloadError) as error:
            raise ConnectionResetError(f"the body cannot be read: {error}") from None
        if chunk and self._pace.too_slow(len(chunk), self._time()):
            self._give_up("the body comes too slowly")
        return chunk

    async def _wait(self) -> bytes:
        patience = self._pace.patience(self._time())
        try:
            async with asyncio.timeout(patience):
                return await self._content.readany()
        except TimeoutError:
            self._give_up(f"no bytes in {patience:.0f} s")

    def _give_up(self, why: str) -> NoReturn:
        coordinator_of(self._request).services.metrics.cut_off.labels("slow_body").inc()
        raise TimeoutError(why)


def json_answer(value: msgspec.Struct | object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )


def problem(
    status: int, title: str, code: str, detail: str, headers: dict[str, str] | None = None
) -> web.Response:
    """An error document."""
    document = Problem(
        type=f"urn:lamplighter:problem:{code}",
        title=title,
        status=status,
        code=code,
        detail=detail[:2000],
    )
    return web.Response(
        body=msgspec.json.encode(document),
        status=status,
        content_type=PROBLEM_TYPE,
        headers=headers or {},
    )


def _check_head(request: web.Request) -> None:
    """Raises `Refused` for what no route can mean."""
    # Lengths and digests are of what is sent, and what is unpacked has no bound of its own.
    if (coding := request.headers.get("Content-Encoding", "identity")) != "identity":
        raise Refused("bad_header", f"Content-Encoding: none is taken, found {coding[:40]!r}")


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure leaves as one problem document with a stable code."""
    try:
        _check_head(request)
        answer = await handler(request)
        request.app[OUTAGE].served()
        return answer
    except CoordinatorError as error:
        return problem(error.status, error.title, error.code, error.detail, error.headers)
    except web.HTTPException as error:
        status = HTTPStatus(error.status)
        if status < HTTPStatus.BAD_REQUEST:
            raise
        code = status.phrase.lower().replace(" ", "_")
        allowed = {k: v for k, v in error.headers.items() if k == "Allow"}
        return problem(status, status.phrase, code, f"{request.method} {request.path}", allowed)
    except (ConnectionError, TimeoutError) as error:
        # The client is gone or silent: whatever is answered, it will likely not hear.
        return problem(408, "Request timeout", "cut", str(error))
    except (OSError, StoreUnavailable) as error:
        request.app[OUTAGE].refused(f"{request.method} {request.path}", error)
        broken = Unavailable("storage", "the coordinator cannot write to its store: try later")
        return problem(broken.status, broken.title, broken.code, broken.detail, broken.headers)
    except StoreError as error:
        log.error("%s %s: %s", request.method, request.path, error)
        return problem(500, "Error", "damaged_row", "see the log")
    except WireError as error:
        damaged = error.code is Rule.BAD_DIGEST
        log.error("%s %s: %s", request.method, request.path, error)
        return problem(500, "Error", "damaged_blob" if damaged else "internal", "see the log")
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return problem(500, "Error", "internal", "a fault of the coordinator: see its log")
