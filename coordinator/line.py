"""The line between two processes of one coordinator: plain data, and large bytes through memory
that both see.

A message is pickled. A pipe would carry each of its bytes in four copies, a page fault every 4 kB;
here bytes that are large are copied once, to where the other side looks at them in place, and the
pipe carries where they lie. What finds no room there goes through the pipe. Only the side that has
made the line puts bytes there, and not before it has its answer: one message is under way at a time.
"""

import io
import mmap
import os
import pickle
import tempfile
from multiprocessing.connection import Connection, Pipe
from typing import Any, Self

_ROOM = 8 << 20  # bytes; only those ever used take memory
_LARGE = 2 << 10


class Line:
    """One end. Blocking; used by one thread. Raises `OSError` or `EOFError` when the other end is
    gone."""

    def __init__(self, pipe: Connection, file: int) -> None:
        """Takes the pipe; `file` is that of the shared memory, and may be closed afterwards."""
        self._pipe = pipe
        self._room = mmap.mmap(file, _ROOM)

    @classmethod
    def open(cls, pipe: int, file: int) -> Self:
        """The other end, from the two files that it was given."""
        line = cls(Connection(pipe), file)
        os.close(file)
        return line

    def ask(self, message: object, seconds: float) -> Any:
        """Send a message, and return what the other end says. Raises `EOFError` also when it says
        nothing for so long."""
        self._pipe.send_bytes(_packed(message, self._room))
        if not self._pipe.poll(seconds):
            raise EOFError(f"no answer in {seconds:.0f} s")
        return pickle.loads(self._pipe.recv_bytes())  # noqa: S301 - our own process

    def hear(self) -> Any:
        """The next message. Large bytes in it are a `memoryview`, good until the answer is sent."""
        return _Unpickler(io.BytesIO(self._pipe.recv_bytes()), self._room).load()

    def answer(self, message: object) -> None:
        """What is said to the message that was heard."""
        self._pipe.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def close(self) -> None:
        """The other end hears `EOFError`."""
        self._pipe.close()
        self._room.close()


class Ends:
    """A new line: `here`, and the `files` that a process is started with to have the other end."""

    def __init__(self) -> None:
        own, its = Pipe()
        file = _memory()
        self.here = Line(own, file)
        self.files = its.fileno(), file
        self._its = its

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The process has its files, or never will."""
        self._its.close()
        os.close(self.files[1])


def _memory() -> int:
    """A file that is in memory alone, where the system has such; else without a name."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("lamplighter")
    else:
        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    os.truncate(file, _ROOM)
    return file


def _packed(message: object, room: mmap.mmap) -> memoryview:
    into = io.BytesIO()
    _Pickler(into, room).dump(message)
    return into.getbuffer()


class _Pickler(pickle.Pickler):
    def __init__(self, into: io.BytesIO, room: mmap.mmap) -> None:
        super().__init__(into, pickle.HIGHEST_PROTOCOL)
        self._room, self._used = room, 0

    def persistent_id(self, part: object) -> tuple[int, int] | None:
        if type(part) is not bytes or len(part) < _LARGE or self._used + len(part) > _ROOM:
            return None
        start, self._used = self._used, self._used + len(part)
        self._room[start : self._used] = part
        return start, self._used


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, room: mmap.mmap) -> None:
        super().__init__(data)
        self._room = room

    def persistent_load(self, place: tuple[int, int]) -> memoryview:
        start, stop = place
        return memoryview(self._room)[start:stop].toreadonly()
