"""`coordinator serve`: bind, serve, stop in order.

Stopping: no new connections; requests in flight have a few seconds; the rounds' timers end; the
store closes. A second signal ends the process at once, which loses nothing that was acknowledged.
"""

import asyncio
import errno
import ipaddress
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from coordinator.http.app import application
from coordinator.http.door import Door
from coordinator.lifeline import Worker
from coordinator.service import Coordinator
from coordinator.start import StoreOptions, open_coordinator
from systemd.journal import fields
from systemd.notify import Notifier
from wire.files import write_durably

log = logging.getLogger(__name__)

DEFAULT_PORT = 8750
ENDPOINT_FILE = "endpoint.json"
"""In the state folder while the server runs, so that the command line finds it."""
_SHUTDOWN_SECONDS = 5.0
_KEEPALIVE_SECONDS = 75.0
_HANDSHAKE_SECONDS = 20.0
_BACKLOG = 128
_MOST_CONNECTIONS = 50_000  # each costs some 30 kB
_OWN_FILES = 64
_COMPLAINT_SECONDS = 30.0
_ROUNDS_SHOWN = 3


class ServeError(Exception):
    """The server cannot start; one line that says what to do."""


class UsageError(ServeError):
    """It was asked for what cannot be: another word from the person who asks is needed."""


@dataclass(frozen=True)
class ServeOptions:
    """Where and how to serve. Port 0 takes any free one. `max_connections` is each process's;
    `None` is what the open files allow. `metrics_open`: without the admin token, too."""

    state: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_http: bool = False
    store: StoreOptions = field(default_factory=StoreOptions)
    max_connections: int | None = None
    metrics_open: bool = False


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server answers on its own machine, and the certificate it shows there, PEM."""

    url: str
    certificate: str | None = None


def is_loopback(host: str) -> bool:
    """Whether an address never leaves the machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(options: ServeOptions) -> ssl.SSLContext | None:
    """TLS as the options ask. Raises `UsageError`, also for plain HTTP that was not asked for by
    name."""
    if options.tls_cert is None and options.tls_key is None:
        if not is_loopback(options.host) and not options.insecure_http:
            raise UsageError(
                f"plain HTTP on {options.host} would show every secret to the network: give "
                "--tls-cert and --tls-key, or say --insecure-http"
            )
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise UsageError("--tls-cert and --tls-key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the certificate {options.tls_cert} or its key cannot be used: {error}"
        ) from None
    return context


async def serve(options: ServeOptions, worker: Worker | None = None) -> None:
    """Serve until SIGTERM or SIGINT; as one `worker` of several, or alone. Raises `ServeError`,
    `StoreError`."""
    tls = tls_context(options)
    stopping = until_stopped()
    asyncio.get_running_loop().set_exception_handler(_Complaints())
    _raise_file_limit()
    logging.getLogger("aiohttp.server").addFilter(_Rubbish())
    notifier = Notifier.of_environment()
    async with (
        open_coordinator(options.state, options=options.store, apart=_apart()) as coordinator,
        notifier.speaking(lambda: status_line(coordinator)),
        _listening(options, tls, coordinator, worker) as port,
        worker.serving(stopping) if worker else published(options, port),
    ):
        notifier.ready()
        await stopping.wait()
        log.info("stopping")
        notifier.stopping()


def _apart() -> bool:
    """Whether updates are summed in a process of their own: where a processor can be spared."""
    return len(os.sched_getaffinity(0)) > 1


@asynccontextmanager
async def _listening(
    options: ServeOptions,
    tls: ssl.SSLContext | None,
    coordinator: Coordinator,
    worker: Worker | None,
) -> AsyncIterator[int]:
    """While this lasts, requests are answered; gives the port. Raises `ServeError`."""
    runner = web.AppRunner(
        application(coordinator, options.metrics_open),
        access_log=None,
        shutdown_timeout=_SHUTDOWN_SECONDS,
        keepalive_timeout=_KEEPALIVE_SECONDS,
        auto_decompress=False,  # no route takes a coded body
    )
    await runner.setup()
    assert runner.server is not None
    limit = options.max_connections or max_connections()
    door = Door(runner.server, limit, coordinator.services.metrics)
    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                door,
                options.host,
                options.port,
                ssl=tls,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS if tls else None,
                backlog=_BACKLOG,
                reuse_port=worker is not None,
            )
        except OSError as error:
            raise cannot_listen(options, error) from None
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
    finally:
        await runner.cleanup()


def cannot_listen(options: ServeOptions, error: OSError) -> ServeError:
    """Why the address cannot be had."""
    if isinstance(error, socket.gaierror):
        return UsageError(f"--host {options.host}: no address of this machine ({error.strerror})")
    return ServeError(f"cannot listen on {options.host}:{options.port}: {error}")


@asynccontextmanager
async def published(options: ServeOptions, port: int) -> AsyncIterator[None]:
    """While this lasts, this machine's command line finds the server."""
    endpoint = options.state / ENDPOINT_FILE
    found = await asyncio.to_thread(_endpoint, options, port)
    await asyncio.to_thread(write_durably, endpoint, msgspec.json.encode(found))
    log.info("serving %s, state in %s", found.url, options.state, extra=fields(URL=found.url))
    try:
        yield
    finally:
        try:
            await asyncio.to_thread(endpoint.unlink, missing_ok=True)
        except OSError as error:  # as on a disk that can only be read: it stops all the same
            log.warning("%s stays: %s", endpoint, error)


def until_stopped() -> asyncio.Event:
    """Set at SIGTERM or SIGINT; a second one ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stopping)
    return stopping


def status_line(coordinator: Coordinator) -> str:
    """What `systemctl status` shows: how much there is, and where the first open rounds stand."""
    running = [task for task in coordinator.tasks.values() if task.running]
    rounds = [
        f"round {task.round.number} of {task.name}: "
        f"{task.round.arrived} of {task.round.policy.goal} updates"
        for task in running[:_ROUNDS_SHOWN]
    ]
    if len(running) > _ROUNDS_SHOWN:
        rounds.append(f"{len(running) - _ROUNDS_SHOWN} more")
    return "; ".join([f"tasks: {len(running)}; devices: {coordinator.devices.population}", *rounds])


def _endpoint(options: ServeOptions, port: int) -> Endpoint:
    """Blocking: how this machine's own command line reaches the server."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(options.host, options.host)  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    if options.tls_cert is None:
        return Endpoint(url=f"http://{host}:{port}")
    return Endpoint(url=f"https://{host}:{port}", certificate=options.tls_cert.read_text())


def _raise_file_limit() -> None:
    """Every connection is an open file: take as many as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """How many the open files allow: each may have a second one open, that of a model it sends."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _MOST_CONNECTIONS * 2 if soft == resource.RLIM_INFINITY else soft
    return max(1, min(_MOST_CONNECTIONS, (files - _OWN_FILES) // 2))


class _Rubbish(logging.Filter):
    """Whoever sends what is no HTTP hears 400. A traceback for each would fill the disk."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, HttpProcessingError)


class _Complaints:
    """The loop's exception handler. Running out of files is said once in a while, in one line:
    the loop tries to accept again and again, and a log that fills the disk helps nobody."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            if loop.time() - self._last >= _COMPLAINT_SECONDS:
                self._last = loop.time()
                log.error("no connection can be accepted: %s", error)
            return
        loop.default_exception_handler(context)


def _stop(stopping: asyncio.Event) -> None:
    if stopping.is_set():
        os._exit(130)
    stopping.set()
