"""`python -m examples.linear -o OUT`."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before anything imports ONNX Runtime

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from examples.linear import report
from examples.linear.data import SETS
from examples.linear.run import Found, run
from fleet.simulation.pictures import PictureError

out = Console()
err = Console(stderr=True, soft_wrap=True, highlight=False)


def main(
    output: Annotated[Path, typer.Option("-o", help="Where tables and pictures go.")] = Path(
        "linear-results"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Random splits of each set.")] = 5,
    quick: Annotated[bool, typer.Option(help="One split, to see it work.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that train; default: the cores.")
    ] = None,
) -> None:
    """scikit-learn's linear regression, logistic regression and linear SVM, on twenty devices."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        found = _run(range(1, 2 if quick else seeds + 1), workers)
        report.write(output, found)
    except (PictureError, OSError) as error:
        err.print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None
    out.print(report.table(found))
    out.print(f"Pictures and tables: {output}")


def _run(seeds: Sequence[int], workers: int | None) -> dict[str, list[Found]]:
    """Each set with each seed, under a bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    found: dict[str, list[Found]] = {name: [] for name in SETS}
    with Progress(*columns, console=out) as progress:
        bar = progress.add_task("", total=len(SETS) * len(seeds))
        for name in SETS:
            for seed in seeds:
                progress.update(bar, description=f"{name}, split {seed}")
                with tempfile.TemporaryDirectory() as folder:
                    found[name].append(run(name, Path(folder), seed=seed, workers=workers))
                progress.advance(bar)
    return found


if __name__ == "__main__":
    typer.run(main)
