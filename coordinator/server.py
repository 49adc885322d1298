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
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from coordinator.http.app import application
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
_BACKLOG = 128
_COMPLAINT_SECONDS = 30.0
_ROUNDS_SHOWN = 3


class ServeError(Exception):
    """The server cannot start; one line that says what to do."""


@dataclass(frozen=True)
class ServeOptions:
    """Where and how to serve. Port 0 takes any free one."""

    state: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    insecure_http: bool = False
    store: StoreOptions = field(default_factory=StoreOptions)


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
    """TLS as the options ask. Raises `ServeError` for plain HTTP that was not asked for by name."""
    if options.tls_cert is None and options.tls_key is None:
        if not is_loopback(options.host) and not options.insecure_http:
            raise ServeError(
                f"plain HTTP on {options.host} would show every secret to the network: give "
                "--tls-cert and --tls-key, or say --insecure-http"
            )
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise ServeError("--tls-cert and --tls-key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ServeError(
            f"the certificate {options.tls_cert} or its key cannot be used: {error}"
        ) from None
    return context


async def serve(options: ServeOptions, worker: "Worker | None" = None) -> None:
    """Serve until SIGTERM or SIGINT; as one `worker` of several, or alone. Raises `ServeError`,
    `StoreError`."""
    tls = tls_context(options)
    stopping = until_stopped()
    asyncio.get_running_loop().set_exception_handler(_Complaints())
    _raise_file_limit()
    notifier = Notifier.of_environment()
    async with (
        open_coordinator(options.state, options=options.store) as coordinator,
        notifier.speaking(lambda: status_line(coordinator)),
    ):
        runner = web.AppRunner(
            application(coordinator),
            access_log=None,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            keepalive_timeout=_KEEPALIVE_SECONDS,
        )
        await runner.setup()
        try:
            site = web.TCPSite(
                runner,
                options.host,
                options.port,
                ssl_context=tls,
                backlog=_BACKLOG,
                reuse_port=worker is not None,
            )
            try:
                await site.start()
            except OSError as error:
                raise ServeError(
                    f"cannot listen on {options.host}:{options.port}: {error}"
                ) from None
            async with published(options, runner.addresses[0][1], worker):
                notifier.ready()
                await stopping.wait()
                log.info("stopping")
                notifier.stopping()
        finally:
            await runner.cleanup()


@dataclass(frozen=True)
class Worker:
    """One process of several that serve together: whoever started it hears on the file descriptor
    `ready` that it serves."""

    ready: int


@asynccontextmanager
async def published(
    options: ServeOptions, port: int, worker: Worker | None = None
) -> AsyncIterator[None]:
    """While this lasts, this machine's command line finds the server."""
    if worker is not None:
        os.write(worker.ready, b"ready\n")
        os.close(worker.ready)
        yield
        return
    endpoint = options.state / ENDPOINT_FILE
    found = await asyncio.to_thread(_endpoint, options, port)
    await asyncio.to_thread(write_durably, endpoint, msgspec.json.encode(found))
    log.info("serving %s, state in %s", found.url, options.state, extra=fields(URL=found.url))
    try:
        yield
    finally:
        await asyncio.to_thread(endpoint.unlink, missing_ok=True)


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
