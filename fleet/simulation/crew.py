"""Who does a simulation's work: processes, all at once, or nobody but the simulation itself.

Work waits in one queue, and the most urgent is done first. Whoever waits for a result looks now and
then whether somebody is left to bring it.
"""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import PriorityQueue
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from fleet.simulation.setting import Setting
from fleet.simulation.workshop import Workshop

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

AT_ONCE = 0.0
"""How urgent work is for which everything waits; other work is as urgent as its virtual time."""

_LOOK_SECONDS = 0.5  # between two looks whether a worker lives
_END_SECONDS = 5.0


class WorkerDied(RuntimeError):
    """A worker process ended in the middle of its work: killed, out of memory perhaps."""


class Pending(Protocol[T_co]):
    """Work that somebody does, or will."""

    def result(self) -> T_co:
        """Wait for it. Raises what the work raises, and `WorkerDied`."""

    def cancel(self) -> None:
        """Nobody will ask for the result: work that has not begun is left."""


class Crew(Protocol):
    """Does the work of a `Workshop`."""

    def ask(
        self,
        urgency: float,
        method: Callable[Concatenate[Workshop, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[T]:
        """Have a method done, the least `urgency` first."""


class _Later(Generic[T]):
    """Work that is done when its result is asked for, and not at all when nobody asks."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work: Callable[[], T] | None = work
        self._result: list[T] = []

    def result(self) -> T:
        if self._work is not None:
            self._result.append(self._work())
            self._work = None
        return self._result[0]

    def cancel(self) -> None:
        pass


class Here:
    """This process."""

    def __init__(self, setting: Setting) -> None:
        self._workshop = setting.workshop()

    def ask(
        self,
        urgency: float,
        method: Callable[Concatenate[Workshop, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[T]:
        return _Later(lambda: method(self._workshop, *args, **kwargs))

    def close(self) -> None:
        """Nothing is left."""


class _Process:
    """A worker, from outside."""

    def __init__(self, setting: Setting) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # Not through multiprocessing: that would run the user's own script once more.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "fleet.simulation.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=_environment(),
                process_group=0,  # a terminal's Ctrl-C, or its end, is for the simulation
            )
            self._line = Connection(ours.detach())
        with suppress(OSError):  # it has died, and the first work will find out
            self._line.send(setting)

    def do(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Blocking. Raises what the work raises, and `WorkerDied`."""
        try:
            self._line.send((method, arguments))
            while not self._line.poll(_LOOK_SECONDS):
                if self._process.poll() is not None and not self._line.poll(0):
                    raise EOFError
            good, found = self._line.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._death()) from None
        if not good:
            raise found
        return found

    def hang_up(self) -> None:
        """Nothing is to be said any more."""
        self._line.close()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)

    def _death(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        code, what = self._process.returncode, "a simulation's worker process"
        if code is None:
            return f"{what} ({self._process.pid}) has hung up"
        if code >= 0:
            return f"{what} ended with exit status {code}; what it wrote says why"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ": out of memory? Fewer workers need less" if name == "SIGKILL" else ""
        return f"{what} was killed by {name}{hint}"


class _Work:
    """In the queue. Ordered by urgency, then by when it was asked for."""

    def __init__(self, order: tuple[float, int], method: str, arguments: tuple[Any, ...]) -> None:
        self.order = order
        self.method = method
        self.arguments = arguments
        self.future: Future[Any] = Future()

    def __lt__(self, other: "_Work") -> bool:
        return self.order < other.order


class _Asked:
    """Work of which a process brings the result."""

    def __init__(self, future: Future[Any], crew: "Processes") -> None:
        self._future = future
        self._crew = crew

    def result(self) -> Any:
        # Not with its own timeout: the work itself may raise a `TimeoutError`.
        while not wait((self._future,), _LOOK_SECONDS).done:
            if self._crew.failure is not None and not self._future.done():
                raise self._crew.failure
        return self._future.result()

    def cancel(self) -> None:
        self._future.cancel()


class Processes:
    """Several worker processes, each with a thread here that hands it work."""

    def __init__(self, setting: Setting, number: int) -> None:
        self.failure: WorkerDied | None = None
        self._queue: PriorityQueue[_Work] = PriorityQueue()
        self._count = itertools.count()
        self._workers: list[_Process] = []
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(number):
                self._workers.append(_Process(setting))
            for worker in self._workers:
                thread = threading.Thread(target=self._serve, args=(worker,), daemon=True)
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    def ask(
        self,
        urgency: float,
        method: Callable[Concatenate[Workshop, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[T]:
        assert not kwargs
        work = _Work((urgency, next(self._count)), method.__name__, args)
        self._queue.put(work)
        return cast(Pending[T], _Asked(work.future, self))

    def _serve(self, worker: _Process) -> None:
        """In a thread: hand out work until there is to be none, or the worker has died."""
        while self.failure is None:
            work = self._queue.get()
            if not work.method:
                return
            if not work.future.set_running_or_notify_cancel():
                continue
            try:
                work.future.set_result(worker.do(work.method, work.arguments))
            except WorkerDied as error:
                self.failure = error
                work.future.set_exception(error)
            except BaseException as error:  # noqa: BLE001 - it is for whoever waits
                work.future.set_exception(error)

    def close(self) -> None:
        """End the processes, whatever they do."""
        self.failure = self.failure or WorkerDied("the simulation has ended")
        for _ in self._workers:
            self._queue.put(_Work((-1.0, next(self._count)), "", ()))
        for worker in self._workers:
            worker.kill()  # nothing that it does now is of use, nor is any file of its own
        for thread in self._threads:
            thread.join(_END_SECONDS)
        for worker in self._workers:
            worker.hang_up()


def _environment() -> dict[str, str]:
    """A worker finds what we find, and has one thread."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)  # noqa: PTH109
    return {**os.environ, **one, "PYTHONPATH": path}
