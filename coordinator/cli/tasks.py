"""Tasks: compile, create, list, show, stop; and a task's newest model as a file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from coordinator import taskfile
from coordinator.cli.common import (
    AsJson,
    CaFile,
    State,
    TaskName,
    TokenFile,
    Url,
    guard,
    narrow_table,
    out,
    plain,
    with_client,
)
from coordinator.cli.compiling import (
    check_folder,
    compiled,
    say_estimate,
    tried,
    upload_line,
    warn,
)
from coordinator.cli.evaluations import metrics_command, say_versions
from coordinator.cli.telling import say_troubles, write_lines
from coordinator.client import AdminClient
from coordinator.figures import MetricView, VersionView
from coordinator.views import TaskDetail, TaskView
from schedules.duration import human
from wire.plan import FROZEN_NAME, parse_manifest

File = Annotated[Path, typer.Argument(help="Task file.", metavar="TASK.toml")]


_SHOWN = 3  # versions, with all that devices say of them: `task metrics` has the others

NoDryRun = Annotated[
    bool, typer.Option("--no-dry-run", help="Do not train the plan for a moment before it is used.")
]


def compile_command(
    file: File,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the plan.")] = Path(
        "plan"
    ),
    no_dry_run: NoDryRun = False,
) -> None:
    """Compile a task into a plan: the training graph in standard operators, and its manifest."""

    def work() -> None:
        from coordinator.compiler.folder import write_plan_dir

        task = taskfile.load(file)
        check_folder(output)
        plan = compiled(task, file)
        upload = upload_line(task, plan.manifest)
        warn(plan.warnings if no_dry_run else tried(task, plan))
        write_plan_dir(plan, output)
        size = sum(len(data) for data in plan.files.values())
        out.print(
            plain(
                f"{output}: plan {plan.manifest.digest()}, "
                f"{plan.manifest.weights:,} weights, {size:,} bytes"
            )
        )
        out.print(f"  {upload}")
        say_estimate(plan)

    guard(work)


def create_command(
    state: State,
    file: File,
    plan: Annotated[
        Path | None, typer.Option(help="Folder of a plan compiled before, on another machine.")
    ] = None,
    no_dry_run: NoDryRun = False,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Compile a task and start its rounds."""

    async def work(client: AdminClient) -> None:
        from coordinator.compiler.folder import read_plan_dir

        task = taskfile.load(file)  # a mistake in it is said before anything is compiled
        found = read_plan_dir(plan) if plan else compiled(task, file)
        if not plan:  # whoever compiled it before has tried it
            warn(found.warnings if no_dry_run else tried(task, found))
        upload = upload_line(task, found.manifest)
        manifest = found.manifest.to_bytes()
        made = await client.create(
            file.read_text(encoding="utf-8"), manifest, [*found.files.values(), found.initial]
        )
        out.print(f"task [bold]{made.name}[/]: {made.weights:,} weights, round 1 waits for devices")
        if made.needs:
            out.print(f"  {_needs(made)}")
        out.print(f"  {upload}")
        out.print("  enrol devices with: [bold]coordinator token[/]")

    with_client(work, state, url, token_file, ca_file)


def list_command(
    state: State, url: Url = None, token_file: TokenFile = None, ca_file: CaFile = None
) -> None:
    """List every task and where its round stands."""

    async def work(client: AdminClient) -> None:
        table = Table("task", "state", "model", "round", "phase", "updates", "closes in")
        for task in await client.tasks():
            table.add_row(*_row(task))
        out.print(table)

    with_client(work, state, url, token_file, ca_file)


def show_command(
    state: State,
    name: TaskName,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Show a task: its rounds, and its models' metrics on devices' held-out examples."""

    async def work(client: AdminClient) -> None:
        detail = await client.task(name)
        if as_json:
            write_lines([detail])
        else:
            _print(detail)

    with_client(work, state, url, token_file, ca_file)


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

    with_client(work, state, url, token_file, ca_file)


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
        frozen = files.get(FROZEN_NAME)
        model = complete_model(
            await client.blob(files["model.onnx"].digest),
            await client.blob(task.model),
            await client.blob(frozen.digest) if frozen else None,
        )
        target = output or Path(f"{name}.onnx")
        target.write_bytes(model)
        out.print(plain(f"{target}: model version {task.version}, {len(model):,} bytes"))

    with_client(work, state, url, token_file, ca_file)


def _row(task: TaskView) -> tuple[str, ...]:
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


def _print(detail: TaskDetail) -> None:
    task = detail.task
    out.print(f"[bold]{task.name}[/]: {task.state}, model version {task.version}")
    out.print(f"  plan {task.plan}\n  model {task.model}\n  {task.weights:,} weights")
    out.print(f"  updates are coded as {task.codec}")
    if task.needs:
        out.print(f"  {_needs(task)}")
    names = ("round", "from", "phase", "why", "updates", "examples", "took", "devices say")
    table = narrow_table(
        names, wraps=("why", "took", "devices say"), numbers=("updates", "examples")
    )
    for r in detail.rounds:
        took = "" if r.ended is None or r.elapsed is None else human(r.elapsed)
        metrics = task.metrics.get(r.version + 1, []) if r.phase == "closed" else []
        table.add_row(
            *(str(r.number), f"v{r.version}", r.phase, r.reason or ""),
            *(str(r.updates), str(r.examples), took, _metrics(metrics)),
        )
    out.print(table)
    say_troubles(detail.rounds)
    said = [VersionView(version=v, metrics=metrics) for v, metrics in task.metrics.items()]
    say_versions(said[-_SHOWN:])


def _needs(task: TaskView) -> str:
    return f"closing a round of {task.goal} updates needs {task.needs}"


def _metrics(metrics: list[MetricView]) -> str:
    return ", ".join(f"{m.name} {m.mean:.4g} (worst {m.worst:.4g})" for m in metrics)


def add_to(app: typer.Typer) -> None:
    """This module's commands."""
    tasks = typer.Typer(no_args_is_help=True, help="Create, list, show and stop tasks.")
    app.command("compile")(compile_command)
    app.command("export")(export_command)
    tasks.command("create")(create_command)
    tasks.command("list")(list_command)
    tasks.command("show")(show_command)
    tasks.command("metrics")(metrics_command)
    tasks.command("stop")(stop_command)
    app.add_typer(tasks, name="task")
