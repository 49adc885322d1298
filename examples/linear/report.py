"""What was found: a table, CSV files and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from rich.table import Table

from examples.command import table_of
from examples.linear.data import DEVICES
from examples.linear.run import Found
from fleet.simulation.pictures import curves
from fleet.simulation.tables import Cell, write_rows

TITLES: Mapping[str, str] = {
    "diabetes": "linear regression",
    "cancer": "logistic regression",
    "digits": "linear SVM",
}


def table(found: Mapping[str, Sequence[Found]]) -> Table:
    """Means over the splits."""
    splits = len(next(iter(found.values())))
    return table_of(
        f"scikit-learn's linear models on {DEVICES} devices: means of {splits} splits",
        ["", "measure", "fleet", "all data in\none place", "a device\nalone", "upload\na device"],
        [[f"{name}: {TITLES[name]}", *_cells(outcomes)] for name, outcomes in found.items()],
    )


def _cells(outcomes: Sequence[Found]) -> list[str]:
    metric = outcomes[0].metric
    figures = [
        mean(o.federated for o in outcomes),
        mean(o.centralised for o in outcomes),
        mean(o.alone for o in outcomes),
    ]
    upload = mean(o.result.versions[-1].upload for o in outcomes) / DEVICES
    told = [f"{value:.1f}" if metric == "rmse" else f"{value:.1%}" for value in figures]
    return [metric, *told, f"{upload / 1e3:.0f} kB"]


def write(folder: Path, found: Mapping[str, Sequence[Found]]) -> None:
    """`SET.csv`, `SET.png` and `SET.svg` of each set, and `linear.csv`. Raises `OSError`,
    `PictureError`."""
    rows: list[dict[str, Cell]] = [
        {
            "set": name,
            "split": split,
            "metric": one.metric,
            "federated": one.federated,
            "centralised": one.centralised,
            "alone": one.alone,
        }
        for name, outcomes in found.items()
        for split, one in enumerate(outcomes, start=1)
    ]
    write_rows(folder / "linear.csv", rows)
    for name, (first, *_) in found.items():
        write_rows(folder / f"{name}.csv", first.result.to_rows())
        test = [(v.number, v.test[first.metric]) for v in first.result.versions]
        last = test[-1][0]
        curves(
            folder / name,
            {
                "fleet": test,
                "all data in one place": [(0, first.centralised), (last, first.centralised)],
                "a device alone (median)": [(0, first.alone), (last, first.alone)],
            },
            x="version",
            y=f"{first.metric}, test",
            title=f"{name}: {TITLES[name]}, {DEVICES} devices",
        )
