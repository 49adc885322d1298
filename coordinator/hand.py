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
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

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


class Apart:
    """Work is done in a process of its own, started when there is some."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Line | None = None
        self._sending = asyncio.Lock()  # fair: what came first is sent first

    async def do(self, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        async with self._sending:
            line = self._line or await self._start()
            answer = line.ask((method.__name__, arguments))
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                good, found = await answer
        except (OSError, EOFError, TimeoutError) as error:
            await self._lost(line, error)
            raise Unavailable("summing", "the process that sums updates has ended") from error
        if not good:
            raise RuntimeError(found)
        return found

    async def _start(self) -> Line:
        with Ends() as ends:
            self._line = await ends.here()
            self._process = await asyncio.to_thread(
                subprocess.Popen,
                [sys.executable, "-m", "coordinator.hand", *map(str, ends.files)],
                pass_fds=ends.files,
                stdin=subprocess.DEVNULL,
            )
        return self._line

    async def _lost(self, line: Line, error: Exception) -> None:
        async with self._sending:
            if self._line is line:  # nobody else has seen to it
                why = str(error) or f"no answer in {_ANSWER_SECONDS:.0f} s"
                log.error("the process that sums updates has ended (%s): another is started", why)
                await self.close()

    async def close(self) -> None:
        line, self._line = self._line, None
        process, self._process = self._process, None
        if line is not None:
            await line.close()  # which is its sign to end
        if process is not None:
            await asyncio.to_thread(_end, process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    process.kill()
    process.wait()


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
