"""A server by hand over a real socket: it answers with whatever bytes a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Wire:
    """A listening server. `requests` holds the head of each request, as text."""

    url: str = ""
    requests: list[str] = field(default_factory=list)


@asynccontextmanager
async def wire(
    *answers: Answer, tls: ssl.SSLContext | None = None, greeting: bytes = b""
) -> AsyncIterator[Wire]:
    """Listen on `wire.url`. Each connection gets the next answer, those after the last one that
    one again; then it is closed. A greeting comes before the request."""
    found, tasks = Wire(), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        number = len(found.requests)
        found.requests.append("")
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                writer.write(greeting)
                found.requests[number] = (await reader.readuntil(b"\r\n\r\n")).decode()
                await answers[min(number, len(answers) - 1)](reader, writer)
                writer.close()
                await writer.wait_closed()
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    scheme, port = "https" if tls else "http", server.sockets[0].getsockname()[1]
    found.url = f"{scheme}://127.0.0.1:{port}"
    try:
        yield found
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn


def says(data: bytes) -> Answer:
    """Writes `data` and closes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return answer


def replies(
    body: bytes = b"", status: str = "200 OK", length: int | None = None, **headers: str
) -> Answer:
    """An HTTP answer; `length` is what it claims to hold, `_` in a header's name is a hyphen."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return says("\r\n".join([*lines, "", ""]).encode() + body)


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Never says a word."""
    await asyncio.Event().wait()


def drips(head: bytes, piece: bytes, every: float) -> Answer:
    """Writes `head`, then `piece` again and again without an end."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(every)

    return answer
