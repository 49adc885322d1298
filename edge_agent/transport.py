"""Talking to the coordinator. A connection lives for one errand and is closed before training.

Every wait has a bound: connecting, silence while reading, silence while sending. Every answer is
held to a size before it is read. Errors are `Offline` or `Rejected`; nothing else leaves.
"""

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from edge_agent.errors import ConfigError, Offline, Rejected
from edge_agent.state import Identity
from wire import compression
from wire.digest import hex_of, verify
from wire.errors import WireError
from wire.messages import (
    MESSAGE_LIMIT,
    Acknowledgement,
    CheckIn,
    CheckInReply,
    Enroll,
    Enrolled,
    GiveUp,
    Problem,
    UploadState,
)
from wire.strict import decode_json

T = TypeVar("T", bound=msgspec.Struct)

CONNECT_SECONDS = 15.0
SILENCE_SECONDS = 30.0
_CHUNK = 16 << 10
_TRIES = 3  # times that one upload goes on from the server's offset before it is put off


def check_url(url: str, insecure_http: bool) -> str:
    """The coordinator's address, as it is used. Raises `ConfigError`: plain HTTP would show the
    device's secret to the network, so it is for this machine, or asked for by name."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r}: expected an address such as 'https://fleet.example:8750'")
    if parts.scheme == "http" and not insecure_http and not _is_loopback(parts.hostname):
        raise ConfigError(
            f"{url}: plain HTTP would show this device's secret to the network: use https, or say "
            "--insecure-http"
        )
    return url.rstrip("/")


class Transport:
    """`async with Transport(...)`: one errand's connection. `bytes_up` and `bytes_down` count
    bodies."""

    def __init__(
        self, url: str, secret: str, ca: str | None = None, insecure_http: bool = False
    ) -> None:
        self._url = check_url(url, insecure_http)
        self._secret = secret
        self._ca = ca
        self.bytes_up = 0
        self.bytes_down = 0

    @classmethod
    def of(cls, identity: Identity) -> "Transport":
        """The transport of an enrolled device."""
        return cls(identity.url, identity.secret, identity.ca, identity.insecure_http)

    async def __aenter__(self) -> Self:
        tls: ssl.SSLContext | bool = True
        if self._ca is not None:
            tls = await asyncio.to_thread(ssl.create_default_context, cadata=self._ca)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=2),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
            ),
            headers={"Authorization": f"Bearer {self._secret}"},
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def enroll(self, message: Enroll) -> Enrolled:
        """Join; the transport's secret is the enrolment token."""
        return await self._post("/v1/enroll", message, Enrolled)

    async def check_in(self, message: CheckIn) -> CheckInReply:
        """Ask for work."""
        return await self._post("/v1/check-in", message, CheckInReply)

    async def give_up(self, assignment: str, message: GiveUp) -> None:
        """Say that an assignment will not be delivered."""
        body = msgspec.json.encode(message)
        async with self._request("POST", f"/v1/assignments/{assignment}/give-up", body):
            self.bytes_up += len(body)

    async def blob(self, digest: str, limit: int) -> bytes:
        """A plan's file or a model of at most `limit` bytes, proved by its digest."""
        headers = {"Accept-Encoding": "zstd, identity"}
        async with self._request("GET", f"/v1/blobs/{digest}", headers=headers) as answer:
            # zstd's worst case is a little above the plain size.
            data = await self._read(answer, limit + limit // 128 + 1024)
            coded = answer.headers.get("Content-Encoding") == "zstd"
        try:
            plain = await asyncio.to_thread(compression.decompress, data, limit) if coded else data
            await asyncio.to_thread(verify, plain, digest)
        except WireError as error:
            raise Offline(f"{self._url} sent a damaged {digest[:19]}...: {error}") from None
        return plain

    async def upload(self, assignment: str, data: bytes, digest: str) -> None:
        """Deliver an update; returns when it is acknowledged as durable. Goes on from where the
        server is after a cut. Raises `Rejected` (final: drop it), or `Offline` (try later)."""
        failure: Offline | None = None
        for _ in range(_TRIES):
            try:
                if await self._upload_once(assignment, data, digest):
                    return
            except Offline as error:
                failure = error
        raise failure or Offline(f"{self._url} takes no more of the update")

    async def _upload_once(self, assignment: str, data: bytes, digest: str) -> bool:
        path = f"/v1/assignments/{assignment}/update"
        sha256 = base64.b64encode(bytes.fromhex(hex_of(digest))).decode()
        headers = {
            "Upload-Complete": "?0",
            "Upload-Length": str(len(data)),
            "Repr-Digest": f"sha-256=:{sha256}:",
        }
        async with self._request("POST", path, headers=headers) as answer:
            if answer.headers.get("Upload-Complete") == "?1":
                return True
            offset = _offset(answer)
        headers = {
            "Upload-Complete": "?1",
            "Upload-Offset": str(offset),
            "Content-Type": "application/partial-upload",
            "Content-Length": str(len(data) - offset),
        }
        async with asyncio.timeout(None) as bound:
            body = self._body(memoryview(data)[offset:], bound)
            async with self._request("PATCH", path, body, headers) as answer:
                found = await self._decode(answer, Acknowledgement)
        return found.state is UploadState.ACCEPTED

    async def _body(self, data: memoryview, bound: asyncio.Timeout) -> AsyncIterator[bytes]:
        """The bytes in chunks; each must leave within `SILENCE_SECONDS` of the one before."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(data), _CHUNK):
            bound.reschedule(loop.time() + SILENCE_SECONDS)
            chunk = bytes(data[start : start + _CHUNK])
            yield chunk
            self.bytes_up += len(chunk)
        # From here the server's answer is awaited; reading has a bound of its own.
        bound.reschedule(None)

    async def _post(self, path: str, message: msgspec.Struct, kind: type[T]) -> T:
        body = msgspec.json.encode(message)
        async with self._request("POST", path, body) as answer:
            self.bytes_up += len(body)
            return await self._decode(answer, kind)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request. Every failure of the network becomes `Offline`, every error `Rejected`."""
        try:
            async with self._session.request(
                method, self._url + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
                    raise await self._rejection(answer)
                yield answer
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if isinstance(error, Offline):
                raise
            reason = str(error) or type(error).__name__
            raise Offline(f"{self._url} does not answer: {reason}") from error

    async def _rejection(self, answer: aiohttp.ClientResponse) -> Rejected:
        data = await self._read(answer, MESSAGE_LIMIT)
        try:
            problem = decode_json(data, Problem, MESSAGE_LIMIT)
        except WireError:  # not ours: a proxy's page, or another server altogether
            return Rejected(answer.status, f"http_{answer.status}", answer.reason or "")
        return Rejected(answer.status, problem.code, problem.detail)

    async def _decode(self, answer: aiohttp.ClientResponse, kind: type[T]) -> T:
        data = await self._read(answer, MESSAGE_LIMIT)
        try:
            return decode_json(data, kind, MESSAGE_LIMIT)
        except WireError as error:
            raise Offline(f"{self._url} does not speak this protocol: {error.detail}") from None

    async def _read(self, answer: aiohttp.ClientResponse, limit: int) -> bytes:
        data = bytearray()
        async for chunk in answer.content.iter_any():
            data += chunk
            if len(data) > limit:
                raise Offline(f"{self._url} sends more than {limit} bytes")
        self.bytes_down += len(data)
        return bytes(data)


def ca_text(path: Path) -> str:
    """A certificate authority's PEM text, checked. Raises `ConfigError`."""
    try:
        text = path.read_text()
        ssl.create_default_context(cadata=text)
    except (OSError, UnicodeDecodeError, ssl.SSLError) as error:
        raise ConfigError(f"--ca-file {path}: not a certificate in PEM form: {error}") from None
    return text


def _offset(answer: aiohttp.ClientResponse) -> int:
    text = answer.headers.get("Upload-Offset", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
