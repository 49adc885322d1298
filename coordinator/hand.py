"""The hand: who works at the bench. A thread of this process, or a process of its own.

A process has an interpreter of its own: requests are answered while updates are decoded and summed.
In threads the two would wait for each other at every turn, since one interpreter runs one of them.
Where there is no processor to spare, a thread does the same. Both are one hand: work is done in the
order in which it was given.

What the two say to each other (`coordinator.line`) is plain data, and bytes that stay bytes until
the bench looks at them. A process that ends takes its sums with it and nothing else: what counts is
durable, and at the close its bytes are summed instead. The next work starts another.
"""

import asyncio
import logging
import signal
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, cast

from coordinator import memory
from coordinator.bench import Bench
from coordinator.errors import Unavailable
from coordinator.line import Ears, Ends, Line

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_ANSWER_SECONDS = 60.0  # that a piece of work takes at most: tens of models' sizes, never more
_END_SECONDS = 5.0


class Worker(Protocol):
    """Does work at a bench, in the order in which it is given."""

    async def do(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Returns or raises what the method does; raises `Unavailable` when nobody is there to do
        it."""

    async def close(self) -> None:
        """The end. What is under way is finished or given up."""


class Here:
    """Work is done in a thread of this process."""

    def __init__(self) -> None:
        self._bench = Bench()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hand")

    async def do(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, method, self._bench, *arguments)

    async def close(self) -> None:
        # Joined off the loop: what it does may take a while.
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)


class _Other(NamedTuple):
    """A process, and the line to it."""

    line: Line
    process: subprocess.Popen[bytes]


class Apart:
    """Work is done in a process of its own, started when there is some."""

    def __init__(self, seconds: float = _ANSWER_SECONDS) -> None:
        """A process that says nothing for so long is given up."""
        self._seconds = seconds
        self._other: asyncio.Task[_Other] | None = None
        self._closed = False
        self._sending = asyncio.Lock()  # fair: what came first is sent first

    async def do(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        async with self._sending:
            other = self._started()
            answer = (await self._line(other)).ask((method.__name__, arguments))
        try:
            async with asyncio.timeout(self._seconds):
                good, found = await answer
        except (EOFError, TimeoutError) as error:
            await self._lost(other, error)
            raise _ended() from error
        if not good:
            raise RuntimeError(found)
        return found

    def _started(self) -> asyncio.Task[_Other]:
        if self._closed:
            raise _ended()
        if self._other is None:
            self._other = asyncio.create_task(_start())
        return self._other

    async def _line(self, other: asyncio.Task[_Other]) -> Line:
        try:
            # It starts though whoever gave the first work does not wait: the next is there soon.
            return (await asyncio.shield(other)).line
        except Exception as error:
            log.error("no process that sums updates can be started: %s", error)
            if self._other is other:
                self._other = None
            raise _ended() from error

    async def _lost(self, other: asyncio.Task[_Other], error: Exception) -> None:
        async with self._sending:
            if self._other is other:  # nobody else has seen to it
                self._other = None
                why = str(error) or f"no answer in {self._seconds:.0f} s"
                log.error("the process that sums updates has ended (%s): another is started", why)
                await _end(other, 0.0)

    async def close(self) -> None:
        self._closed = True
        other, self._other = self._other, None
        if other is not None:
            await _end(other, _END_SECONDS)


async def _start() -> _Other:
    with Ends() as ends:
        line = await ends.here()
        try:
            process = await asyncio.to_thread(
                subprocess.Popen,
                [sys.executable, "-m", "coordinator.hand", *map(str, ends.files)],
                pass_fds=ends.files,
                stdin=subprocess.DEVNULL,
            )
        except BaseException:
            line.close()
            raise
    return _Other(line, process)


async def _end(other: asyncio.Task[_Other], seconds: float) -> None:
    """End a process, which has so long to do so by itself."""
    if not other.done():
        await asyncio.wait([other])
    # From here on nobody who is cancelled leaves it half done.
    if other.cancelled() or other.exception() is not None:
        return  # there is none
    line, process = other.result()
    line.close()  # which is its sign to end
    await asyncio.to_thread(_reap, process, seconds)


def _reap(process: subprocess.Popen[bytes], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    process.wait()


def _ended() -> Unavailable:
    return Unavailable("summing", "the process that sums updates has ended")


class Hand:
    """What gives the work."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def do(
        self, method: Callable[Concatenate[Bench, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What the bench's `method` returns. Raises what it raises, and `Unavailable` when the
        process has ended: then everything that was at the bench is gone."""
        assert not kwargs
        return cast(T, await self._worker.do(method, args))


@asynccontextmanager
async def open_hand(apart: bool) -> AsyncIterator[Hand]:
    """A hand, in a process of its own or not."""
    worker: Worker = Apart() if apart else Here()
    try:
        yield Hand(worker)
    finally:
        await worker.close()


def _serve(ears: Ears) -> None:
    """Work until the line ends, as it does when whoever gives the work has ended."""
    bench = Bench()
    while True:
        try:
            name, arguments = ears.hear()
        except (EOFError, OSError):
            return
        try:
            answer = True, getattr(bench, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            traceback.print_exc()
            answer = False, f"{type(error).__name__}: {error}"
        with suppress(OSError):
            ears.answer(answer)
        del arguments, answer  # updates are large, and it may be long until the next


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # they are for the one that gives the work
        signal.signal(number, signal.SIG_IGN)
    memory.keep_little()
    memory.collect_seldom()
    _serve(Ears(*map(int, sys.argv[1:])))
