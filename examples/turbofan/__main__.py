"""`python -m examples.turbofan DATA_FOLDER -o OUT`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from examples.command import Output, Workers, mistakes_told, out, progress
from examples.turbofan import cmapss, experiment, report
from examples.turbofan.cmapss import DataError, Flights
from examples.turbofan.experiment import Outcome

_QUICK_SPLITS, _QUICK_ROUNDS = 1, 3
_OTHERS = 3  # steps of a split beside its rounds

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data_folder: Annotated[
        Path, typer.Argument(metavar="DATA_FOLDER", help="The folder of NASA's C-MAPSS files.")
    ],
    output: Output = Path("turbofan-results"),
    splits: Annotated[int, typer.Option(min=1, help="Random splits of the engines.")] = 5,
    quick: Annotated[bool, typer.Option(help="One split of three rounds, to see it work.")] = False,
    workers: Workers = None,
) -> None:
    """Remaining life of turbofans: federated, centralised, alone and naive, on the same splits."""
    with mistakes_told(DataError):
        flights = cmapss.load(data_folder)
        out.print(f"{flights.engines} engines, {len(flights.cycle):,} rows")
        output.mkdir(parents=True, exist_ok=True)
        rounds = _QUICK_ROUNDS if quick else None
        found = _run(flights, range(_QUICK_SPLITS if quick else splits), rounds, workers)
        report.write(output, found)
    _show(found, output, judged=not quick)


def _run(
    flights: Flights, seeds: Sequence[int], rounds: int | None, workers: int | None
) -> list[Outcome]:
    """All splits, under a bar."""
    with tempfile.TemporaryDirectory() as folder:
        plans = experiment.plans(Path(folder), rounds)
        each = plans.federated.task.round.rounds
        found = []
        with progress(len(seeds) * (each + _OTHERS)) as at:
            for seed in seeds:

                def done(what: str, seed: int = seed) -> None:
                    at(f"split {seed}: {what}", 1)

                found.append(
                    experiment.run(
                        flights, plans, seed, watch=seed == seeds[0], workers=workers, done=done
                    )
                )
    return found


def _show(outcomes: Sequence[Outcome], output: Path, judged: bool) -> None:
    out.print(report.table(outcomes), crop=False)
    if judged:
        for words, held in report.goals(outcomes):
            out.print(f"{'[green]yes[/]' if held else '[red]no[/] '} {words}", soft_wrap=True)
    longest = max(each.seconds for each in outcomes)
    out.print(f"The longest federated run took {longest:.1f} s.")
    out.print(f"Pictures and tables: {output}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    app()
