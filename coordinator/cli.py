"""The `coordinator` command."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator import taskfile
from coordinator.client import AdminClient, ClientError
from coordinator.server import (
    DEFAULT_PORT,
    ServeError,
    ServeOptions,
    Worker,
    serve,
    tls_context,
)
from coordinator.start import StoreOptions
from coordinator.store.sql import StoreError
from coordinator.views import MetricView, TaskDetail, TaskView
from coordinator.workers import supervise, worker_command
from schedules.duration import Duration, human
from systemd import install as installer
from systemd.errors import InstallError
from systemd.journal import setup_logging
from systemd.machine import Machine
from systemd.steps import Keep
from wire.errors import WireError
from wire.plan import parse_manifest

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run a fleet's training: compile tasks, serve devices, publish models.",
)
task_app = typer.Typer(no_args_is_help=True, help="Create, list, show and stop tasks.")
app.add_typer(task_app, name="task")
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)


def own_state() -> Path:
    """Where `serve` keeps its state unless told otherwise: systemd's folder for the service, else
    the user's own."""
    if folder := os.environ.get("STATE_DIRECTORY"):
        return Path(folder.split(":")[0])
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lamplighter" / "coordinator"


def served_state() -> Path:
    """Where the other commands look for the server: that of the service on this machine where they
    may look into it, or where there is no other; else as `own_state`."""
    service, own = installer.COORDINATOR_STATE, own_state()
    readable = os.access(service, os.R_OK | os.X_OK)
    return service if readable or (service.exists() and not own.exists()) else own


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
State = Annotated[
    Path,
    typer.Option(
        "--state",
        envvar="COORDINATOR_STATE",
        default_factory=served_state,
        help="Folder of the coordinator's state.",
        show_default="the service's, else ~/.local/state/lamplighter/coordinator",
    ),
]
Url = Annotated[
    str | None, typer.Option(help="Coordinator to talk to. [default: the one over --state]")
]
TokenFile = Annotated[Path | None, typer.Option(help="File of the admin token, with --url.")]
CaFile = Annotated[Path | None, typer.Option(help="Certificate authority to trust, with --url.")]
TaskName = Annotated[str, typer.Argument(help="Name of the task.")]


Host = Annotated[str, typer.Option(envvar="COORDINATOR_HOST", help="Address to listen on.")]
Port = Annotated[
    int,
    typer.Option(
        min=0, max=65535, envvar="COORDINATOR_PORT", help="Port to listen on; 0 takes a free one."
    ),
]
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
        envvar="COORDINATOR_STORE",
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
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


def _credential(name: str) -> Path | None:
    """A file that systemd handed to the service."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    found = Path(folder) / name if folder else None
    return found if found and found.exists() else None


@app.command("serve")
def serve_command(
    state: OwnState,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key, PEM.")] = None,
    insecure_http: InsecureHttp = False,
    store: StoreUrl = None,
    workers: Workers = 1,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
    anchor: Annotated[float | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve devices until stopped. The state folder is made at the first start."""
    setup_logging(verbose, "coordinator")
    if tls_cert is None and tls_key is None:
        tls_cert, tls_key = _credential("tls.crt"), _credential("tls.key")
    kept = StoreOptions(store, shared=worker is not None and store is None, anchor=anchor)
    options = ServeOptions(state, host, port, tls_cert, tls_key, insecure_http, kept)
    if worker is not None:
        _guard(lambda: asyncio.run(serve(options, Worker(worker))))
    elif workers == 1:
        _guard(lambda: asyncio.run(serve(options)))
    else:
        _guard(lambda: asyncio.run(supervise(options, workers, worker_command(options, verbose))))


@app.command("compile")
def compile_command(
    file: Annotated[Path, typer.Argument(help="Task file.", metavar="TASK.toml")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the plan.")] = Path(
        "plan"
    ),
) -> None:
    """Compile a task into a plan: the training graph in standard operators, and its manifest."""

    def work() -> None:
        from coordinator.compiler.compile import compile_task
        from coordinator.compiler.folder import write_plan_dir

        task = taskfile.load(file)
        plan = compile_task(task, file.parent / task.model.file)
        write_plan_dir(plan, output)
        size = sum(len(data) for data in plan.files.values())
        out.print(
            f"[bold]{output}[/]: plan {plan.manifest.digest()}, "
            f"{plan.manifest.weights:,} weights, {size:,} bytes"
        )

    _guard(work)


@task_app.command("create")
def create_command(
    state: State,
    file: Annotated[Path, typer.Argument(help="Task file.", metavar="TASK.toml")],
    plan: Annotated[
        Path | None, typer.Option(help="Folder of a plan compiled before, on another machine.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Compile a task and start its rounds."""

    async def work(client: AdminClient) -> None:
        from coordinator.compiler.compile import compile_task
        from coordinator.compiler.folder import read_plan_dir

        task = taskfile.load(file)
        compiled = (
            read_plan_dir(plan) if plan else compile_task(task, file.parent / task.model.file)
        )
        manifest = compiled.manifest.to_bytes()
        made = await client.create(
            file.read_text(), manifest, [*compiled.files.values(), compiled.initial]
        )
        out.print(f"task [bold]{made.name}[/]: {made.weights:,} weights, round 1 waits for devices")
        out.print("  enrol devices with: [bold]coordinator token[/]")

    _with_client(work, state, url, token_file, ca_file)


@task_app.command("list")
def list_command(
    state: State, url: Url = None, token_file: TokenFile = None, ca_file: CaFile = None
) -> None:
    """List every task and where its round stands."""

    async def work(client: AdminClient) -> None:
        table = Table("task", "state", "model", "round", "phase", "updates", "closes in")
        for task in await client.tasks():
            table.add_row(*_task_row(task))
        out.print(table)

    _with_client(work, state, url, token_file, ca_file)


@task_app.command("show")
def show_command(
    state: State,
    name: TaskName,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Show a task: its rounds, and its models' metrics on devices' held-out examples."""

    async def work(client: AdminClient) -> None:
        _print_task(await client.task(name))

    _with_client(work, state, url, token_file, ca_file)


@task_app.command("stop")
def stop_command(
    state: State,
    name: TaskName,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Stop a task for good. Its published models stay and can be exported."""

    async def work(client: AdminClient) -> None:
        stopped = await client.stop(name)
        out.print(f"task [bold]{name}[/] is {stopped.state} at model version {stopped.version}")

    _with_client(work, state, url, token_file, ca_file)


@app.command("export")
def export_command(
    state: State,
    name: TaskName,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File. [default: TASK.onnx]")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Write a task's newest model as one ONNX file."""

    async def work(client: AdminClient) -> None:
        from coordinator.export import complete_model

        task = (await client.task(name)).task
        files = parse_manifest(await client.blob(task.plan)).files
        frozen = files.get("frozen.bin")
        model = complete_model(
            await client.blob(files["model.onnx"].digest),
            await client.blob(task.model),
            await client.blob(frozen.digest) if frozen else None,
        )
        target = output or Path(f"{name}.onnx")
        target.write_bytes(model)
        out.print(f"[bold]{target}[/]: model version {task.version}, {len(model):,} bytes")

    _with_client(work, state, url, token_file, ca_file)


@app.command("devices")
def devices_command(
    state: State,
    remove: Annotated[
        str | None, typer.Option(help="Forget this device, as if it had left.", metavar="ID")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """List the enrolled devices and when each was last seen; or remove one."""

    async def work(client: AdminClient) -> None:
        if remove is not None:
            left = await client.remove(remove)
            out.print(
                f"{_plain(remove)} is forgotten; of its updates {left.dropped} were dropped, "
                f"{left.published} are part of published models"
            )
            return
        table = Table("device", "name", "labels", "machine", "agent", "runtime", "last seen")
        for d in await client.devices():
            labels = " ".join(f"{k}={v}" for k, v in d.labels.items())
            said = (d.id, d.name, labels, d.facts.machine, d.facts.agent, d.facts.runtime)
            table.add_row(*map(_plain, said), f"{human(d.seen)} ago")
        out.print(table)

    _with_client(work, state, url, token_file, ca_file)


@app.command("token")
def token_command(
    state: State,
    uses: Annotated[int, typer.Option(help="How many devices may join with it.")] = 1,
    expires: Annotated[str, typer.Option(help="How long it is good: '2h', '7d'.")] = "24h",
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Make an enrolment token, shown once. A device joins with: edge-agent enroll URL TOKEN"""

    async def work(client: AdminClient) -> None:
        try:
            lifetime = float(Duration.parse(expires))
        except ValueError as error:
            raise ClientError(f"--expires: {error}") from None
        print(await client.token(uses, lifetime))
        err.print(
            "On each device: [bold]edge-agent enroll URL TOKEN[/], with this server's address"
        )

    _with_client(work, state, url, token_file, ca_file)


@app.command("install")
def install_command(
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Private key, PEM.")] = None,
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

    _guard(work)


@app.command("uninstall")
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
            raise InstallError("--keep-state and --purge exclude each other")
        keep = Keep.STATE if keep_state else Keep.NOTHING if purge else Keep.OWN
        installer.remove(installer.coordinator(removing=True), Machine(), keep, preview=dry_run)

    _guard(work)


def _task_row(task: TaskView) -> tuple[str, ...]:
    running = task.state == "running"
    return (
        task.name,
        task.state,
        f"v{task.version}",
        str(task.round),
        task.phase if running else "",
        f"{task.arrived}/{task.goal}" if running else "",
        human(task.deadline) if running and task.deadline is not None else "",
    )


def _print_task(detail: TaskDetail) -> None:
    task = detail.task
    out.print(f"[bold]{task.name}[/]: {task.state}, model version {task.version}")
    out.print(f"  plan {task.plan}\n  model {task.model}\n  {task.weights:,} weights")
    table = Table("round", "from", "phase", "why", "updates", "examples", "took", "devices say")
    for r in detail.rounds:
        took = human(r.ended - r.started) if r.ended and r.started else ""
        metrics = task.metrics.get(r.version + 1, []) if r.phase == "closed" else []
        table.add_row(
            *(str(r.number), f"v{r.version}", r.phase, r.reason or ""),
            *(str(r.updates), str(r.examples), took, _metrics(metrics)),
        )
    out.print(table)


def _metrics(metrics: list[MetricView]) -> str:
    return ", ".join(f"{m.name} {m.mean:.4g} (worst {m.worst:.4g})" for m in metrics)


def _with_client(
    work: Callable[[AdminClient], Awaitable[None]],
    state: Path,
    url: str | None,
    token_file: Path | None,
    ca_file: Path | None,
) -> None:
    async def run() -> None:
        async with _client(state, url, token_file, ca_file) as client:
            await work(client)

    _guard(lambda: asyncio.run(run()))


def _client(
    state: Path, url: str | None, token_file: Path | None, ca_file: Path | None
) -> AdminClient:
    if url is None:
        return AdminClient.of_state(state)
    if token_file is None:
        raise ClientError("--url needs --token-file, the file of the coordinator's admin token")
    try:
        ca = ca_file.read_text() if ca_file else None
        return AdminClient(url, token_file.read_text().strip(), ca)
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"--token-file or --ca-file: {error}") from None


def _guard(work: Callable[[], None]) -> None:
    """Run; errors a person can mend are one line, exit status 2 for input, 1 for the rest."""
    from coordinator.compiler.errors import CompileError

    try:
        work()
    except (taskfile.TaskFileError, CompileError, WireError) as error:
        _fail(error, 2)
    except (ClientError, ServeError, StoreError, InstallError, OSError) as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(error: Exception, status: int) -> NoReturn:
    err.print("[red]error:[/]", _plain(str(error)), highlight=False)
    raise typer.Exit(status) from None


def _plain(text: str) -> Text:
    """Text that a device or a file brought: no markup, nothing that steers the terminal."""
    return Text("".join(c if c.isprintable() else "?" for c in text))


def main() -> None:
    """Entry point of the `coordinator` command."""
    app()
