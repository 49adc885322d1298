"""`python -m examples.mnist DATA_FOLDER -o OUT`: tables, pictures and CSV files."""

import os
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports ONNX Runtime

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coordinator.compiler.errors import CompileError
from coordinator.taskfile import TaskFileError
from examples.mnist import data, fedavg, nodes
from examples.mnist.options import Options
from examples.mnist.watch import Watch
from fleet.simulation.pictures import PictureError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_console = Console(highlight=False)
_errors = Console(stderr=True, soft_wrap=True, highlight=False)


class Part(StrEnum):
    """Of what is shown."""

    nodes = "nodes"
    fedavg = "fedavg"


RowName = StrEnum("RowName", {name: name for name in fedavg.ROWS})  # type: ignore[misc]


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="MNIST's four IDX files, gzipped or not.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where pictures and CSV files go.")],
    only: Annotated[Part | None, typer.Option(help="One of the two parts.")] = None,
    row: Annotated[
        list[RowName] | None,
        typer.Option(help="This row of FedAvg's only; may be repeated. cnn-shards takes hours."),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="In place of the tasks' own, such as float32.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the splits and all chance.")] = 1,
    workers: Annotated[int | None, typer.Option(help="Processes; 0: none [one a core].")] = None,
    quick: Annotated[bool, typer.Option(help="A tenth of the digits, three rounds.")] = False,
) -> None:
    """MNIST on ten nodes with uneven shares, and FedAvg's rows on a hundred devices."""
    parts = [only] if only else [Part.fedavg] if row else list(Part)
    usual = fedavg.QUICK if quick else fedavg.USUAL
    names = [str(name) for name in row] if row else list(usual)
    try:
        data.check(folder)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="lamplighter-mnist-") as work:
            watch = Watch(_console)
            options = Options(
                data=folder,
                work=Path(work),
                watch=watch,
                seed=seed,
                quick=quick,
                codec=codec,
                workers=workers,
            )
            for made in _tables(options, parts, names, out):
                _console.print(made)
    except data.DataMissing as error:
        _give_up(f"{error}" if data.SOURCE in str(error) else f"{error}; get it at {data.SOURCE}")
    except (CompileError, TaskFileError, PictureError, OSError) as error:
        _give_up(str(error))


def _tables(options: Options, parts: list[Part], names: list[str], out: Path) -> Iterator[Table]:
    """Run the parts; each one's files are written before its table is given."""
    if Part.nodes in parts:
        with options.watch.shown():
            learnt = nodes.run(options)
        nodes.write(learnt, out)
        yield nodes.table(learnt)
    if Part.fedavg in parts:
        with options.watch.shown():
            reached = [fedavg.run(options, name) for name in names]
        fedavg.write(reached, out)
        yield fedavg.table(reached)


def _give_up(why: str) -> NoReturn:
    _errors.print(f"[red]error:[/] {escape(why)}")
    raise typer.Exit(2)


if __name__ == "__main__":
    app()
