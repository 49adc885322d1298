"""Plans: show one so that a person understands it, and draw its graph."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from coordinator import taskfile
from coordinator.cli.common import (
    CaFile,
    Complaint,
    State,
    TokenFile,
    Url,
    guard,
    out,
    plain,
    with_client,
)
from coordinator.cli.compiling import compiled, updates
from coordinator.client import AdminClient
from coordinator.compiler.plan import CompiledPlan
from wire.plan import FileName, parse_manifest

_TASK_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_DRAW_SECONDS = 120.0

Source = Annotated[
    str,
    typer.Argument(
        metavar="PLAN_DIR|TASK.toml|TASK",
        help="A compiled plan's folder, a task file, or the name of a task on the coordinator.",
    ),
]


def show_command(
    state: State,
    source: Source,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="Every parameter, however many there are.")
    ] = False,
    dot: Annotated[
        Path | None, typer.Option(help="Also write the training graph here, for Graphviz.")
    ] = None,
    svg: Annotated[
        Path | None, typer.Option(help="Also draw it here; needs Graphviz's command, dot.")
    ] = None,
    url: Url = None,
    token_file: TokenFile = None,
    ca_file: CaFile = None,
) -> None:
    """Show a plan: what goes in and comes out, what is trained, and what it asks of a device."""
    guard(lambda: _check_places(dot, svg))

    def show(plan: CompiledPlan, upload: tuple[str, int] | None) -> None:
        from coordinator.cli.showing import print_plan  # these read graphs: slow to import
        from coordinator.compiler.report import Upload, report_of

        report = report_of(plan, Upload(codec=upload[0], bytes=upload[1]) if upload else None)
        _draw(plan, dot, svg)
        if as_json:
            sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        else:
            print_plan(report, show_all)

    async def fetch(client: AdminClient) -> None:
        detail = await client.task(source)
        show(await _fetched(client, detail.task.plan, detail.task.model), None)

    if _is_task(source):
        with_client(fetch, state, url, token_file, ca_file)
    else:
        guard(lambda: show(*_local(Path(source))))


def _is_task(source: str) -> bool:
    """Whether it is a task's name rather than a path."""
    return _TASK_NAME.fullmatch(source) is not None and not Path(source).exists()


def _local(path: Path) -> tuple[CompiledPlan, tuple[str, int] | None]:
    """A plan on this machine, compiled if need be, and its updates' codec and bytes if known."""
    if path.is_dir():
        from coordinator.compiler.folder import read_plan_dir

        return read_plan_dir(path), None
    task = taskfile.load(path)
    plan = compiled(task, path)
    codec, found = updates(task, plan.manifest)
    return plan, (codec, found.bytes)


async def _fetched(client: AdminClient, digest: str, model: str) -> CompiledPlan:
    """A task's plan and its newest model."""
    manifest = parse_manifest(await client.blob(digest))
    files: dict[FileName, bytes] = {}
    for name, file in manifest.files.items():
        files[name] = await client.blob(file.digest)
    return CompiledPlan(manifest, files, await client.blob(model))


def _check_places(dot: Path | None, svg: Path | None) -> None:
    """Raise `Complaint` where a picture would take the place of something that is none: before
    anything is compiled."""
    for option, path, begins in (
        ("--dot", dot, (b"digraph",)),
        ("--svg", svg, (b"<?xml", b"<svg")),
    ):
        if path is None or not path.exists() or path.is_char_device():
            continue
        if path.is_dir():
            raise Complaint(f"{option} {path}: a folder; name a file")
        with path.open("rb") as file:
            found = file.read(16)
        if found and not found.startswith(begins):
            raise Complaint(f"{option} {path}: there is another file of that name; name a new one")


def _draw(plan: CompiledPlan, dot: Path | None, svg: Path | None) -> None:
    if dot is None and svg is None:
        return
    from coordinator.compiler import picture

    text = picture.dot(plan)
    if dot is not None:
        dot.write_text(text, encoding="utf-8")
    if svg is not None:
        _draw_svg(text, svg)


def _draw_svg(text: str, svg: Path) -> None:
    program = shutil.which("dot")
    if program is None:
        raise Complaint(
            "--svg: there is no Graphviz here (apt install graphviz); or write --dot graph.dot and "
            "draw it elsewhere: dot -Tsvg graph.dot -o graph.svg"
        )
    try:
        done = subprocess.run(  # noqa: S603 - Graphviz, on what we wrote
            [program, "-Tsvg"], input=text.encode(), capture_output=True, timeout=_DRAW_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise Complaint(
            f"--svg: Graphviz takes over {_DRAW_SECONDS:.0f} s for this graph"
        ) from None
    if done.returncode:
        raise Complaint(f"--svg: {done.stderr.decode(errors='replace').strip()[:300]}")
    svg.write_bytes(done.stdout)
    out.print(plain(f"{svg}: {len(done.stdout):,} bytes"))


def add_to(app: typer.Typer) -> None:
    """This module's commands."""
    plans = typer.Typer(no_args_is_help=True, help="Look at compiled plans.")
    plans.command("show")(show_command)
    app.add_typer(plans, name="plan")
