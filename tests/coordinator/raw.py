"""HTTP by hand over a socket, for what no well-behaved client does."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec

from fleet.clients import Device
from tests.coordinator.serving import Serving
from wire.digest import digest_of, hex_of
from wire.messages import PROBLEM_TYPE, Assignment, Problem


class Answer(NamedTuple):
    """An HTTP answer; the headers' names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> Problem:
        """The error document that it must be."""
        assert self.headers["content-type"] == PROBLEM_TYPE
        found = msgspec.json.decode(self.body, type=Problem)
        assert found.status == self.status
        assert found.type == f"urn:lamplighter:problem:{found.code}"
        assert found.title
        return found

    @property
    def code(self) -> str:
        """The error document's code."""
        return self.problem.code


class Connection:
    """One connection; `send` what you like, `read` one answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Put bytes on the wire."""
        self._writer.write(data)
        await self._writer.drain()

    async def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        """Send a request; the body may be less than the headers promise."""
        lines = {"Host": "test", "Content-Length": str(len(body))} | (headers or {})
        text = "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        head = f"{method} {path} HTTP/1.1\r\n{text}\r\n"
        await self.send(head.encode("utf-8", "surrogateescape") + body)

    async def read(self, method: str = "GET") -> Answer:
        """The next answer."""
        async with asyncio.timeout(5):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            status = int(head[0].split()[1])
            headers = {
                k.lower(): v.strip() for k, _, v in (h.partition(":") for h in head[1:] if h)
            }
            length = int(headers.get("content-length", "0"))
            silent = method == "HEAD" or status == 204
            return Answer(
                status, headers, b"" if silent else await self._reader.readexactly(length)
            )

    def cut(self) -> None:
        """Break the connection."""
        self._writer.transport.abort()


@asynccontextmanager
async def connected(served: Serving) -> AsyncIterator[Connection]:
    """A connection to the coordinator."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    connection = Connection(reader, writer)
    try:
        yield connection
    finally:
        connection.cut()


async def ask(
    served: Serving,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    credential: str | None = None,
) -> Answer:
    """One request and its answer."""
    headers = dict(headers or {})
    if credential is not None:
        headers["Authorization"] = f"Bearer {credential}"
    async with connected(served) as connection:
        await connection.request(method, path, headers, body)
        return await connection.read(method)


def patch_headers(device: Device, offset: int, length: int) -> dict[str, str]:
    """The headers of a PATCH of `length` bytes from `offset` on."""
    return {
        "Authorization": f"Bearer {device.secret}",
        "Upload-Offset": str(offset),
        "Content-Length": str(length),
    }


def post_headers(device: Device, data: bytes, length: int | None = None) -> dict[str, str]:
    """The headers of a POST of all of `data`, announced as of `length` bytes."""
    sha256 = base64.b64encode(bytes.fromhex(hex_of(digest_of(data)))).decode()
    return {
        "Authorization": f"Bearer {device.secret}",
        "Upload-Length": str(len(data) if length is None else length),
        "Upload-Complete": "?1",
        "Repr-Digest": f"sha-256=:{sha256}:",
        "Content-Length": str(len(data)),
    }


def update_path(assignment: Assignment) -> str:
    """The address of an assignment's upload."""
    return f"/v1/assignments/{assignment.id}/update"
