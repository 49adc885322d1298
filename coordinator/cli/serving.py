"""`coordinator serve`, and the systemd service that runs it."""

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from coordinator import memory
from coordinator.cli.common import Complaint, guard, own_state
from coordinator.lifeline import Worker
from coordinator.server import DEFAULT_PORT, ServeOptions, serve, tls_context
from coordinator.start import StoreOptions
from coordinator.workers import STORE_URL, supervise, worker_command
from systemd import install as installer
from systemd.journal import setup_logging
from systemd.machine import Machine
from systemd.steps import Keep

OwnState = Annotated[
    Path,
    typer.Option(
        "--state",
        envvar="COORDINATOR_STATE",
        default_factory=own_state,
        help="Folder of the coordinator's state.",
        show_default="~/.local/state/lamplighter/coordinator",
    ),
]
Host = Annotated[str, typer.Option(envvar="COORDINATOR_HOST", help="Address to listen on.")]
Port = Annotated[
    int,
    typer.Option(
        min=0, max=65535, envvar="COORDINATOR_PORT", help="Port to listen on; 0 takes a free one."
    ),
]
TlsCert = Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")]
TlsKey = Annotated[Path | None, typer.Option(help="Private key, PEM.")]
InsecureHttp = Annotated[
    bool,
    typer.Option(
        "--insecure-http",
        envvar="COORDINATOR_INSECURE_HTTP",
        help="Serve plain HTTP off this machine.",
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar=STORE_URL,
        metavar="URL",
        help="Keep rounds in this PostgreSQL database (postgresql://...), which several "
        "coordinators may share. [default: a SQLite file in the state folder]",
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        min=1, max=256, envvar="COORDINATOR_WORKERS", help="Processes that serve on this machine."
    ),
]
MaxConnections = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1_000_000,
        envvar="COORDINATOR_MAX_CONNECTIONS",
        help="Connections at once, of each process. [default: what the limit of open files allows]",
    ),
]
MetricsOpen = Annotated[
    bool,
    typer.Option(
        "--metrics-open",
        envvar="COORDINATOR_METRICS_OPEN",
        help="Serve /metrics without the admin token, to whoever can reach the port.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def _credential(name: str) -> Path | None:
    """A file that systemd handed to the service."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    found = Path(folder) / name if folder else None
    return found if found and found.exists() else None


def serve_command(
    state: OwnState,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure_http: InsecureHttp = False,
    store: StoreUrl = None,
    workers: Workers = 1,
    max_connections: MaxConnections = None,
    metrics_open: MetricsOpen = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
    anchor: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve devices until stopped. The state folder is made at the first start."""
    setup_logging(verbose, "coordinator")
    if tls_cert is None and tls_key is None:
        tls_cert, tls_key = _credential("tls.crt"), _credential("tls.key")
    options = ServeOptions(
        state=state,
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure_http=insecure_http,
        store=StoreOptions(store, shared=worker is not None and store is None, anchor=anchor),
        max_connections=max_connections,
        metrics_open=metrics_open,
    )
    guard(lambda: _check(options))
    memory.keep_little()
    memory.collect_seldom()
    if worker is not None:
        guard(lambda: asyncio.run(serve(options, Worker(worker))))
    elif workers == 1:
        guard(lambda: asyncio.run(serve(options)))
    else:
        guard(lambda: asyncio.run(supervise(options, workers, worker_command(options, verbose))))


def _check(options: ServeOptions) -> None:
    """Raises `Complaint` for what no state folder and no database can be."""
    if options.state.exists() and not options.state.is_dir():
        raise Complaint(f"--state: {options.state} is no folder")
    url = options.store.url
    if url is not None and not url.startswith(("postgresql://", "postgres://")):
        # Not what it is: it may hold a password.
        raise Complaint("--store: write postgresql://USER@HOST:5432/DATABASE")


def install_command(
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure_http: InsecureHttp = False,
    dry_run: DryRun = False,
    print_unit: Annotated[bool, typer.Option("--print-unit", help="Only show the unit.")] = False,
) -> None:
    """Install and start the systemd service that runs this command. Can be run twice."""

    def work() -> None:
        state = installer.COORDINATOR_STATE
        tls_context(ServeOptions(state, host, port, tls_cert, tls_key, insecure_http))
        tls = installer.Tls(tls_cert, tls_key) if tls_cert and tls_key else None
        found = installer.coordinator(None, host, port, tls, insecure_http)
        if print_unit:
            print(found.unit, end="")
        else:
            installer.install(found, Machine(), preview=dry_run)

    guard(work)


def uninstall_command(
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Keep state, configuration and user.")
    ] = False,
    purge: Annotated[
        bool,
        typer.Option("--purge", help="Remove also the state, and configuration that was changed."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Stop the service and undo what install did. State with something in it stays unless purged:
    the models are there."""

    def work() -> None:
        if keep_state and purge:
            raise Complaint("--keep-state and --purge exclude each other")
        keep = Keep.STATE if keep_state else Keep.NOTHING if purge else Keep.OWN
        installer.remove(installer.coordinator(removing=True), Machine(), keep, preview=dry_run)

    guard(work)


def add_to(app: typer.Typer) -> None:
    """This module's commands."""
    app.command("serve")(serve_command)
    app.command("install")(install_command)
    app.command("uninstall")(uninstall_command)
