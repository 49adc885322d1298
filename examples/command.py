"""What the examples' commands share: options, what is seen of a run, tables, and how mistakes are
told."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from coordinator.cli.common import EXIT_FAILED, EXIT_INPUT, WideEnough, complain
from coordinator.compiler.errors import CompileError
from coordinator.taskfile import TaskFileError
from fleet.simulation import SimulationError, WorkerDied
from fleet.simulation.pictures import PictureError

out = Console(highlight=False)

Output = Annotated[Path, typer.Option("--output", "-o", help="Where tables and pictures go.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that train; 0: this one.", show_default="one a core"),
]


@contextmanager
def mistakes_told(bad_data: type[Exception] = OSError) -> Iterator[None]:
    """What a person can mend is one line: exit status 2 for input, `bad_data` among it, 1 for the
    rest."""
    try:
        yield
    except (bad_data, CompileError, TaskFileError, PictureError, OSError) as error:
        raise typer.Exit(complain(error, EXIT_INPUT)) from None
    except (SimulationError, WorkerDied) as error:
        raise typer.Exit(complain(error, EXIT_FAILED)) from None


@contextmanager
def progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """A bar of so many steps. Call it with what goes on, and how many steps are done since."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out) as shown:
        bar = shown.add_task("", total=total)

        def at(what: str, done: int) -> None:
            shown.update(bar, description=what, advance=done)

        yield at


def table_of(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> WideEnough:
    """Rows with a name first, then figures; for 80 columns, so a line end may part a head. Print
    it with `crop=False`."""
    made = WideEnough(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0
    )
    for place, head in enumerate(heads):
        made.add_column(head, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made
