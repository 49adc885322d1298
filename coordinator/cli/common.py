"""What every command shares: the consoles, the options that find a coordinator, and how mistakes
are told."""

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Container, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from coordinator.client import AdminClient, ClientError, InputError
from coordinator.server import ServeError, UsageError
from coordinator.store.sql import StoreError
from coordinator.taskfile import TaskFileError
from systemd import install as installer
from systemd.errors import InstallError
from wire.errors import WireError

_ADDRESS = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?", re.IGNORECASE)
EXIT_FAILED, EXIT_INPUT, EXIT_INTERRUPTED = 1, 2, 130

# Into a file or a pipe, tables are as wide as they need: an id that is cut helps no script.
out = Console(soft_wrap=True, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 240)
err = Console(stderr=True, soft_wrap=True)


class Complaint(Exception):
    """A mistake in what was typed; one line that says what is allowed."""


# Where the coordinator is


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
AsJson = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]
All = Annotated[bool, typer.Option("--all", help="However many there are.")]


def with_client(
    work: Callable[[AdminClient], Awaitable[None]],
    state: Path,
    url: str | None,
    token_file: Path | None,
    ca_file: Path | None,
) -> None:
    """Do `work` with the coordinator that the options name."""

    async def run() -> None:
        async with _client(state, url, token_file, ca_file) as client:
            await work(client)

    guard(lambda: asyncio.run(run()))


def _client(
    state: Path, url: str | None, token_file: Path | None, ca_file: Path | None
) -> AdminClient:
    if url is None:
        return AdminClient.of_state(state)
    if token_file is None:
        raise InputError("--url needs --token-file, the file of the coordinator's admin token")
    if not _ADDRESS.fullmatch(url):
        raise InputError(f"--url: expected https://HOST:PORT, not {url!r}")
    try:
        ca = ca_file.read_text() if ca_file else None
        return AdminClient(url, token_file.read_text().strip(), ca)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file or --ca-file: {error}") from None


# Tables


class WideEnough(Table):
    """Wider than the terminal rather than with a figure that is cut, which would be another one. A
    console that does not wrap softly prints it with `crop=False`."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [
            max(cell_len(str(cell)) for cell in (column.header, *column.cells))
            if column.no_wrap
            else column.min_width or 1
            for column in self.columns
        ]
        least = sum(widths) + len(widths) - 1  # a space between two
        return super().__rich_console__(
            console, options.update_width(max(options.max_width, least))
        )


def narrow_table(names: Sequence[str], wraps: Container[str], numbers: Container[str]) -> Table:
    """One that fits a terminal of 80 columns where that can be: no frame, and only the columns that
    may wrap become narrower, though never than their longest word of the head."""
    table = WideEnough(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(
            name,
            no_wrap=name not in wraps,
            overflow="fold",
            min_width=max(map(len, name.split())),
            justify="right" if name in numbers else "left",
        )
    return table


# Mistakes


def guard(work: Callable[[], None]) -> None:
    """Run; errors a person can mend are one line, exit status 2 for input, 1 for the rest."""
    from coordinator.compiler.errors import CompileError

    try:
        work()
    except BrokenPipeError:  # whoever read us, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(EXIT_FAILED) from None
    except (Complaint, InputError, UsageError, TaskFileError, CompileError, WireError) as error:
        _fail(error, EXIT_INPUT)
    except (ClientError, ServeError, StoreError, InstallError, OSError) as error:
        _fail(error, EXIT_FAILED)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _fail(error: Exception, status: int) -> NoReturn:
    raise typer.Exit(complain(error, status)) from None


def complain(error: Exception, status: int) -> int:
    """Say what is wrong, in one line."""
    line = " ".join((str(error) or type(error).__name__).split())
    err.print("[red]error:[/]", plain(line), highlight=False)
    return status


def plain(text: str) -> Text:
    """Text that a device or a file brought: no markup, nothing that steers the terminal."""
    return Text("".join(c if c.isprintable() else "?" for c in text))
