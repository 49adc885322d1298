"""`python -m examples.mnist DATA_FOLDER -o OUT`: tables, pictures and CSV files."""

import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from examples.command import Output, Workers, mistakes_told
from examples.command import out as console
from examples.mnist import fedavg, nodes
from examples.mnist.options import Options
from examples.mnist.watch import Watch
from fleet.simulation.idx import DataMissing, check

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Part(StrEnum):
    """Of what is shown."""

    nodes = "nodes"
    fedavg = "fedavg"


RowName = StrEnum("RowName", {name: name for name in fedavg.ROWS})  # type: ignore[misc]


@app.command()
def main(
    data_folder: Annotated[
        Path, typer.Argument(metavar="DATA_FOLDER", help="MNIST's four IDX files, gzipped or not.")
    ],
    output: Output = Path("mnist-results"),
    only: Annotated[Part | None, typer.Option(help="One of the two parts.")] = None,
    row: Annotated[
        list[RowName] | None,
        typer.Option(help="This row of FedAvg's only; may be repeated. cnn-shards takes hours."),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="In place of the tasks' own, such as float32.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the splits and all chance.")] = 1,
    quick: Annotated[bool, typer.Option(help="A tenth of the digits, three rounds.")] = False,
    workers: Workers = None,
) -> None:
    """MNIST on ten nodes with uneven shares, and FedAvg's rows on a hundred devices."""
    parts = [only] if only else [Part.fedavg] if row else list(Part)
    usual = fedavg.QUICK if quick else fedavg.USUAL
    names = [str(name) for name in row] if row else list(usual)
    with mistakes_told(DataMissing):
        check(data_folder)
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="lamplighter-mnist-") as work:
            options = Options(
                data=data_folder,
                work=Path(work),
                watch=Watch(console),
                seed=seed,
                quick=quick,
                codec=codec,
                workers=workers,
            )
            for made in _tables(options, parts, names, output):
                console.print(made, crop=False)


def _tables(options: Options, parts: list[Part], names: list[str], output: Path) -> Iterator[Table]:
    """Run the parts; each one's files are written before its table is given."""
    if Part.nodes in parts:
        with options.watch.shown():
            learnt = nodes.run(options)
        nodes.write(learnt, output)
        yield nodes.table(learnt)
    if Part.fedavg in parts:
        with options.watch.shown():
            reached = [fedavg.run(options, name) for name in names]
        fedavg.write(reached, output)
        yield fedavg.table(reached)


if __name__ == "__main__":
    app()
