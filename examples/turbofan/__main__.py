"""`python -m examples.turbofan DATA_FOLDER -o OUT`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from examples.turbofan import cmapss, experiment, report
from examples.turbofan.cmapss import DataError, Flights
from examples.turbofan.experiment import Outcome
from fleet.simulation.pictures import PictureError

_QUICK_SPLITS, _QUICK_ROUNDS = 1, 3
_OTHERS = 2  # steps of a split beside its rounds; the nodes of the first one are watched

out = Console()
err = Console(stderr=True, soft_wrap=True, highlight=False)


def main(
    data: Annotated[Path, typer.Argument(help="The folder of NASA's C-MAPSS files.")],
    output: Annotated[Path, typer.Option("-o", help="Where tables and pictures go.")] = Path(
        "turbofan-results"
    ),
    splits: Annotated[int, typer.Option(min=1, help="Random splits of the engines.")] = 5,
    quick: Annotated[bool, typer.Option(help="One split of three rounds, to see it work.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that train; default: the cores.")
    ] = None,
) -> None:
    """Remaining life of turbofans: federated, centralised, alone and naive, on the same splits."""
    try:
        flights = cmapss.load(data)
        out.print(f"{flights.engines} engines, {len(flights.cycle):,} rows")
        rounds = _QUICK_ROUNDS if quick else None
        found = _run(flights, range(_QUICK_SPLITS if quick else splits), rounds, workers)
        report.write(output, found)
    except (DataError, PictureError, OSError) as error:
        err.print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(2) from None
    _show(found, output, judged=not quick)


def _run(
    flights: Flights, seeds: Sequence[int], rounds: int | None, workers: int | None
) -> list[Outcome]:
    """All splits, under a bar."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with tempfile.TemporaryDirectory() as folder, Progress(*columns, console=out) as progress:
        plans = experiment.compiled(Path(folder), rounds)
        each = plans.federated.task.round.rounds
        bar = progress.add_task("", total=len(seeds) * (each + _OTHERS) + each)
        found = []
        for seed in seeds:

            def done(what: str, seed: int = seed) -> None:
                progress.update(bar, advance=1, description=f"split {seed}: {what}")

            found.append(
                experiment.run(
                    flights, plans, seed, watch=seed == seeds[0], workers=workers, done=done
                )
            )
    return found


def _show(outcomes: Sequence[Outcome], output: Path, judged: bool) -> None:
    out.print(report.table(outcomes))
    if judged:
        for words, held in report.goals(outcomes):
            out.print(f"{'[green]yes[/]' if held else '[red]no[/] '} {words}", soft_wrap=True)
    longest = max(each.seconds for each in outcomes)
    out.print(f"The longest federated run took {longest:.1f} s.")
    out.print(f"Pictures and tables: {escape(str(output))}", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
