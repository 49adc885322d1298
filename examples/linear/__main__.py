"""`python -m examples.linear -o OUT`."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from examples.command import Output, Workers, mistakes_told, out, progress
from examples.linear import report
from examples.linear.data import SETS
from examples.linear.run import Found, run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    output: Output = Path("linear-results"),
    splits: Annotated[int, typer.Option(min=1, help="Random splits of each set.")] = 5,
    quick: Annotated[bool, typer.Option(help="One split, to see it work.")] = False,
    workers: Workers = None,
) -> None:
    """scikit-learn's linear regression, logistic regression and linear SVM, on twenty devices."""
    with mistakes_told():
        output.mkdir(parents=True, exist_ok=True)
        found = _run(range(1, 2 if quick else splits + 1), workers)
        report.write(output, found)
    out.print(report.table(found), crop=False)
    out.print(f"Pictures and tables: {output}", soft_wrap=True, markup=False)


def _run(seeds: Sequence[int], workers: int | None) -> dict[str, list[Found]]:
    """Each set with each seed, under a bar."""
    found: dict[str, list[Found]] = {name: [] for name in SETS}
    with progress(len(SETS) * len(seeds)) as at:
        for name in SETS:
            for seed in seeds:
                at(f"{name}, split {seed}", 0)
                with tempfile.TemporaryDirectory() as folder:
                    found[name].append(run(name, Path(folder), seed=seed, workers=workers))
                at(f"{name}, split {seed}", 1)
    return found


if __name__ == "__main__":
    app()
