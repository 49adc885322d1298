"""The line between two processes of one coordinator: plain data, and large bytes through memory
that both see.

A message is pickled, and has its length before it. A socket would carry each byte in four copies,
with a page fault every 4 kB; bytes that are large are copied once instead, to where the other side
looks at them in place, and the socket carries where they lie. What finds no room there goes through
the socket. Messages are answered in the order in which they were sent.
"""

import asyncio
import io
import mmap
import os
import pickle
import socket
import struct
import tempfile
from collections import deque
from typing import IO, Any, NamedTuple, Self

_ROOM = 16 << 20  # bytes; only those ever used take memory
_LARGE = 2 << 10
_LENGTH = struct.Struct("!Q")


class Line:
    """The end that asks. Used on the event loop."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, room: mmap.mmap
    ) -> None:
        self._writer = writer
        self._room, self._ring = room, Ring(_ROOM)
        self._asked = deque[_Asked]()
        self._why: str | None = None  # it has ended, once it has
        self._reading = asyncio.create_task(self._read(reader))
        self._reading.add_done_callback(self._read_all)

    def ask(self, message: object) -> asyncio.Future[Any]:
        """Send a message; the future has what the other end says, or is `EOFError` once it is
        gone. May be cancelled: then nobody hears the answer. Raises what pickling it raises."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._why is not None:
            future.set_exception(EOFError(self._why))
            return future
        packed = _Packed(message, self._room, self._ring)
        self._asked.append(_Asked(future, packed.places))
        self._writer.write(_LENGTH.pack(len(packed.data)))
        self._writer.write(packed.data)
        return future

    def close(self) -> None:
        """The other end hears that this is the end. Who waits for an answer hears it as well."""
        self._end("the line was closed")
        self._reading.cancel()
        # What is not sent yet is not waited for: the other end may have stopped to read.
        self._writer.transport.abort()
        self._room.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            answer = pickle.loads(await reader.readexactly(length))  # noqa: S301 - our own
            asked = self._asked.popleft()
            self._ring.give_back(asked.places)
            if not asked.future.done():
                asked.future.set_result(answer)

    def _read_all(self, reading: asyncio.Task[None]) -> None:
        """Whatever went wrong, no answer can be read any more."""
        error = None if reading.cancelled() else reading.exception()
        self._end(str(error) or type(error).__name__)

    def _end(self, why: str) -> None:
        self._why = self._why or why
        while self._asked:
            future = self._asked.popleft().future
            if not future.done():
                future.set_exception(EOFError(self._why))


class Ears:
    """The end that hears and answers. Blocking; raises `OSError` or `EOFError` once the other end
    is gone."""

    def __init__(self, end: int, file: int) -> None:
        """From the files that the process was given."""
        with socket.socket(fileno=end) as own:  # which closes it with the stream
            self._stream = own.makefile("rwb")
        self._room = mmap.mmap(file, _ROOM)
        os.close(file)

    def hear(self) -> Any:
        """The next message. Large bytes in it are a `memoryview`, good until the answer is sent."""
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        return _Unpickler(io.BytesIO(self._exactly(length)), self._room).load()

    def answer(self, message: object) -> None:
        """What is said to the message that was heard."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._stream.write(_LENGTH.pack(len(data)))
        self._stream.write(data)
        self._stream.flush()

    def _exactly(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) < length:
            raise EOFError("the line has ended")
        return data


class Ends:
    """`with Ends() as ends`: a new line. `files` are what a process is started with to be at the
    other end, inside; `here` is this end, once it is."""

    def __init__(self) -> None:
        self._file = _memory()
        self._own, self._its = socket.socketpair()
        self.files = self._its.fileno(), self._file.fileno()

    async def here(self) -> Line:
        """This end."""
        room = mmap.mmap(self._file.fileno(), _ROOM)
        # One of the line's own: what is made here is closed here, whatever goes wrong.
        reader, writer = await asyncio.open_connection(sock=self._own.dup())
        return Line(reader, writer, room)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._own, self._its, self._file):
            each.close()


class Ring:
    """Room that is given back in the order in which it was taken."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = deque[tuple[int, int]]()

    def take(self, size: int) -> int | None:
        """Where so many bytes in a row are free, which now are taken; `None` if nowhere."""
        start = self._free(size)
        if start is not None:
            self._taken.append((start, start + size))
        return start

    def give_back(self, places: int) -> None:
        """So many of the oldest."""
        for _ in range(places):
            self._taken.popleft()

    def leave(self, places: int) -> None:
        """So many of the newest are not needed after all."""
        for _ in range(places):
            self._taken.pop()

    def _free(self, size: int) -> int | None:
        if not self._taken:
            return 0 if size <= self._size else None
        oldest, newest = self._taken[0][0], self._taken[-1][1]
        if newest <= oldest:  # it has come round: free is what lies between
            return newest if newest + size <= oldest else None
        if newest + size <= self._size:
            return newest
        return 0 if size <= oldest else None


class _Asked(NamedTuple):
    future: asyncio.Future[Any]
    places: int


def _memory() -> IO[bytes]:
    """A file that is in memory alone, where the system has such; else without a name."""
    file: IO[bytes]
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("lamplighter"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - `Ends` closes it
    file.truncate(_ROOM)
    return file


class _Packed(pickle.Pickler):
    """A message as `data`, its large bytes in so many `places` of the ring."""

    def __init__(self, message: object, room: mmap.mmap, ring: Ring) -> None:
        into = io.BytesIO()
        super().__init__(into, pickle.HIGHEST_PROTOCOL)
        self._room, self._ring, self.places = room, ring, 0
        try:
            self.dump(message)
        except BaseException:
            ring.leave(self.places)
            raise
        self.data = into.getvalue()

    def persistent_id(self, part: object) -> tuple[int, int] | None:
        if type(part) is not bytes or len(part) < _LARGE:
            return None
        start = self._ring.take(len(part))
        if start is None:
            return None
        self.places += 1
        stop = start + len(part)
        self._room[start:stop] = part
        return start, stop


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, room: mmap.mmap) -> None:
        super().__init__(data)
        self._room = room

    def persistent_load(self, place: tuple[int, int]) -> memoryview:
        start, stop = place
        return memoryview(self._room)[start:stop].toreadonly()
