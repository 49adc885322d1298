"""`coordinator serve --workers N`: several processes on one machine serve together.

Each is a coordinator of its own over the same store, and all listen on the same port: the kernel
gives each connection to one of them. This process only watches: it holds the lock of the state
folder and the port, starts a worker anew when it ends, ends one of which nothing is heard, and ends
them all when it is told to stop.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from prometheus_client.multiprocess import mark_process_dead

from coordinator import lifeline
from coordinator.metrics import METRICS_FOLDER
from coordinator.server import (
    ServeError,
    ServeOptions,
    cannot_listen,
    published,
    tls_context,
    until_stopped,
)
from coordinator.store.sqlite import lock_state, prepare
from schedules.backoff import Backoff
from schedules.clock import SystemClock
from systemd.notify import Notifier

log = logging.getLogger(__name__)

STORE_URL = "COORDINATOR_STORE"
_START_SECONDS = 60.0
_SILENT_SECONDS = 30.0  # of a worker that lives; as long as systemd's watchdog waits
_STOP_SECONDS = 15.0
_STEADY_SECONDS = 60.0  # a worker that lived for so long did not fail at its start
_BACKOFF = Backoff(first=0.5, limit=30.0)


class Supervisor:
    """Starts the workers, and starts them again."""

    def __init__(
        self, command: Sequence[str], number: int, silent: float = _SILENT_SECONDS
    ) -> None:
        """`command` starts one worker; the option that hands it its line is added. One of which
        nothing is heard for `silent` seconds is ended."""
        self._command = command
        self._number = number
        self._silent = silent

    async def run(self, ready: asyncio.Event, stopping: asyncio.Event) -> None:
        """Until `stopping`; `ready` is set when all serve. Raises `ServeError` when one cannot."""
        started = [asyncio.Event() for _ in range(self._number)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._keep(n, event)) for n, event in enumerate(started)]
            waiting = group.create_task(_all(started, ready))
            await stopping.wait()
            waiting.cancel()
            for task in tasks:
                task.cancel()

    async def _keep(self, number: int, started: asyncio.Event) -> None:
        """One worker, again and again."""
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            code = await self._one(number, started)
            if not started.is_set():
                raise ServeError(f"worker {number} does not start: see its messages above")
            failures = 1 if loop.time() - began > _STEADY_SECONDS else failures + 1
            wait = _BACKOFF.delay(failures, 1.0)
            log.error("worker %d ended (%s); a new one starts in %.1f s", number, code, wait)
            await asyncio.sleep(wait)

    async def _one(self, number: int, started: asyncio.Event) -> int:
        """One worker's life; returns its exit status. Cancelled, it ends the worker."""
        own, its = socket.socketpair()
        with own:
            with its:
                line = its.fileno()
                process = await asyncio.create_subprocess_exec(
                    *self._command, "--worker", str(line), pass_fds=(line,)
                )
            try:
                if await lifeline.serves(own, _START_SECONDS):
                    log.info("worker %d serves, process %d", number, process.pid)
                    started.set()
                    return await self._watched(number, process, own)
                return await _end(process)
            finally:
                await _end(process)
                await _forget(process.pid)

    async def _watched(
        self, number: int, process: asyncio.subprocess.Process, line: socket.socket
    ) -> int:
        """The exit status of a worker that serves, once it has ended; for its silence, if need be:
        it holds connections, and locks of the store, that nobody else can have."""

        async def silenced() -> None:
            await lifeline.silence(line, self._silent)
            log.error(
                "worker %d, process %d, has said nothing for %.0f s (stopped, or wedged): ended",
                *(number, process.pid, self._silent),
            )
            _kill(process)

        async with asyncio.TaskGroup() as group:
            watching = group.create_task(silenced())
            code = await process.wait()
            watching.cancel()
        return code


async def _forget(pid: int) -> None:
    """What a worker that has ended showed of itself is shown no more."""
    if folder := os.environ.get(METRICS_FOLDER):
        await asyncio.to_thread(mark_process_dead, pid, folder)


async def _end(process: asyncio.subprocess.Process) -> int:
    """SIGTERM, and SIGKILL if that does not help in time; the exit status."""
    if process.returncode is not None:
        return process.returncode
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            return await process.wait()
    except TimeoutError:
        _kill(process)
        return await process.wait()


def _kill(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


async def _all(started: list[asyncio.Event], ready: asyncio.Event) -> None:
    for event in started:
        await event.wait()
    ready.set()


async def supervise(options: ServeOptions, workers: int, command: Sequence[str]) -> None:
    """Serve with `workers` processes until SIGTERM or SIGINT. `command` starts one, but for its
    port, its clock and its line. Raises `ServeError`, `StoreError`."""
    tls_context(options)  # a mistake in it is said once, not by every worker
    stopping, ready = until_stopped(), asyncio.Event()
    notifier = Notifier.of_environment()
    async with AsyncExitStack() as stack:
        anchor = await _hold_state(stack, options)
        await _share_with_workers(options)
        held = stack.enter_context(_port(options))
        port = held.getsockname()[1]
        arguments = [*command, "--port", str(port)]
        if anchor is not None:
            arguments += ["--anchor", repr(anchor)]
        supervisor = Supervisor(arguments, workers)
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(supervisor.run(ready, stopping))
                waiting = group.create_task(_ready(options, port, ready, stopping, notifier))
                await running
                waiting.cancel()
        except BaseExceptionGroup as failures:
            raise _first(failures) from None


async def _hold_state(stack: AsyncExitStack, options: ServeOptions) -> float | None:
    """Hold the state folder's lock for all workers; their common clock, where they share a file."""
    if options.store.url is not None:
        return None
    await asyncio.to_thread(stack.enter_context, lock_state(options.state))
    return await asyncio.to_thread(prepare, options.state, SystemClock())


async def _share_with_workers(options: ServeOptions) -> None:
    """What a worker finds in its environment: the folder in which all show their metrics, and the
    store's address, which may hold a password: not for everybody's `ps`."""
    metrics = options.state / "metrics"
    await asyncio.to_thread(shutil.rmtree, metrics, ignore_errors=True)
    await asyncio.to_thread(metrics.mkdir, 0o700, parents=True)
    os.environ[METRICS_FOLDER] = str(metrics)
    if options.store.url is not None:
        os.environ[STORE_URL] = options.store.url


def _first(failures: BaseExceptionGroup) -> BaseException:
    """The first of the failures, however deep."""
    found = failures.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def _ready(
    options: ServeOptions,
    port: int,
    ready: asyncio.Event,
    stopping: asyncio.Event,
    notifier: Notifier,
) -> None:
    await ready.wait()
    async with published(options, port), notifier.speaking(lambda: "workers serve"):
        notifier.ready()
        await stopping.wait()
        notifier.stopping()


def _port(options: ServeOptions) -> socket.socket:
    """The port, held for the workers: bound, not listening. Raises `ServeError`."""
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM
        )
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        raise cannot_listen(options, error) from None
    return held


def worker_command(options: ServeOptions, verbose: bool) -> list[str]:
    """How one worker is started, but for its port, its clock and its line."""
    command = [sys.executable, "-m", "coordinator", "serve"]
    command += ["--state", str(options.state), "--host", options.host]
    if options.tls_cert is not None and options.tls_key is not None:
        command += ["--tls-cert", str(options.tls_cert), "--tls-key", str(options.tls_key)]
    if options.max_connections is not None:
        command += ["--max-connections", str(options.max_connections)]
    command += ["--insecure-http"] * options.insecure_http + ["--verbose"] * verbose
    command += ["--metrics-open"] * options.metrics_open
    return command
