"""A wire between a store and its server that can be cut at a word."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Wire:
    """Cuts the connection on which `word` goes by, `times` times: before the server has it, or
    after (`delivered`), when the answer is what gets lost."""

    def __init__(self, server: int) -> None:
        self.port = 0
        self.cuts = 0
        self.serving: set[asyncio.Task[None]] = set()
        self._server = server
        self._word, self._left, self._delivered = b"", 0, False

    def cut(self, word: bytes, times: int = 1, delivered: bool = False) -> None:
        self._word, self._left, self._delivered = word, times, delivered

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server)
        back = asyncio.ensure_future(_copy(up_reader, writer))
        try:
            while data := await reader.read(1 << 16):
                if self._left and self._word in data:
                    self._left -= 1
                    self.cuts += 1
                    back.cancel()
                    await asyncio.wait([back])
                    if self._delivered:
                        up_writer.write(data)
                        await up_reader.read(1 << 16)  # it was done
                    break
                up_writer.write(data)
        except ConnectionError:
            pass
        finally:
            back.cancel()
            for one in (writer, up_writer):
                one.close()
                with suppress(ConnectionError):
                    await one.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def wire(server: int) -> AsyncIterator[Wire]:
    """A wire to the server at a port of this machine."""
    made = Wire(server)
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        listening.close()
        if made.serving:  # they end with the store's connections
            await asyncio.wait(made.serving, timeout=5)
