"""What the splits gave: a table for people, CSV files, and two pictures."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.table import Table

from examples.turbofan.experiment import Outcome
from fleet.simulation import pictures, tables

WORST = 1.03
"""At most so much may the federated model's error be above the centralised one's."""
LEAST = 1.40
"""At least so many times the federated model's error is the naive guess's."""

Curve = list[tuple[float, float]]


def table(outcomes: Sequence[Outcome]) -> Table:
    """The figures of each split, and their means."""
    found = Table(title="RMSE on the test engines, in cycles")
    rows = summary(outcomes)
    for name in rows[0]:
        found.add_column(name, justify="right")
    for number, row in enumerate(rows, 1):
        cells = [
            value if isinstance(value, str) else _text(name, value) for name, value in row.items()
        ]
        found.add_row(
            *cells,
            end_section=number == len(outcomes),
            style="bold" if number > len(outcomes) else "",
        )
    return found


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, float | str]]:
    """A row for each split, and one of means, that of the ratios, too. All figures are those after
    the last round or epoch."""
    rows = [
        {
            "naive": each.naive,
            "naive, not below 0": each.clipped,
            "non-participant": each.alone[-1],
            "its best epoch": min(each.alone[1:]),
            "federated": each.federated[-1],
            "centralised": each.centralised[-1],
            "federated / centralised": each.federated[-1] / each.centralised[-1],
            "naive / federated": each.naive / each.federated[-1],
        }
        for each in outcomes
    ]
    means = {name: fmean(row[name] for row in rows) for name in rows[0]}
    names = [str(each.seed) for each in outcomes]
    return [
        {"split": name, **row} for name, row in zip([*names, "mean"], [*rows, means], strict=True)
    ]


def goals(outcomes: Sequence[Outcome]) -> list[tuple[str, bool]]:
    """What is asked of the figures, and whether they hold it."""
    mean = summary(outcomes)[-1]
    near, gain = float(mean["federated / centralised"]), float(mean["naive / federated"])
    beaten = sum(min(each.alone[1:]) > each.federated[-1] for each in outcomes)
    return [
        (f"federated / centralised {near:.3f}, at most {WORST:.2f}", near <= WORST),
        (f"naive / federated {gain:.3f}, at least {LEAST:.2f}", gain >= LEAST),
        (
            f"the non-participant's best epoch is worse than the federated model in {beaten} of "
            f"{len(outcomes)} splits, at least four fifths",
            beaten >= 0.8 * len(outcomes),
        ),
    ]


def write(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """`splits.csv`, `rmse.csv` and `nodes.csv`, and as PNG and SVG `rmse` and `nodes`. Raises
    `PictureError`, `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    tables.write_rows(folder / "splits.csv", summary(outcomes))
    tables.write_rows(folder / "rmse.csv", _steps(outcomes))
    tables.write_rows(folder / "nodes.csv", _teeth(outcomes))
    pictures.curves(
        folder / "rmse",
        {
            "naive: every engine lives 181 cycles": _flat(outcomes),
            "a node that trains alone": _mean([each.alone for each in outcomes]),
            "federated": _mean([each.federated for each in outcomes]),
            "centralised": _mean([each.centralised for each in outcomes]),
        },
        x="round, or epoch",
        y="RMSE on the test engines, cycles",
        title=f"Remaining life of turbofans, mean of {len(outcomes)} splits",
    )
    first = outcomes[0]
    pictures.curves(
        folder / "nodes",
        {f"node {node + 1}": sawtooth(teeth) for node, teeth in first.teeth.items()},
        x="round",
        y="RMSE on the node's own engines, cycles",
        title="Down as a node trains, up as the others' part arrives",
    )


def sawtooth(teeth: Sequence[tuple[float, float]]) -> Curve:
    """The points of a node's line: down through each round, and at its end up to the next model."""
    return [
        point
        for number, (before, after) in enumerate(teeth)
        for point in ((float(number), before), (number + 1.0, after))
    ]


def _text(name: str, value: float) -> str:
    return f"{value:.3f}" if " / " in name else f"{value:.1f}"


def _mean(lines: Sequence[Sequence[float]]) -> Curve:
    return [(float(at), fmean(values)) for at, values in enumerate(zip(*lines, strict=True))]


def _flat(outcomes: Sequence[Outcome]) -> Curve:
    value = fmean(each.naive for each in outcomes)
    return [(0.0, value), (len(outcomes[0].federated) - 1.0, value)]


def _steps(outcomes: Sequence[Outcome]) -> list[tables.Row]:
    """The error after each round, or epoch."""
    return [
        {"split": each.seed, "step": step, "federated": f, "centralised": c, "non-participant": a}
        for each in outcomes
        for step, (f, c, a) in enumerate(
            zip(each.federated, each.centralised, each.alone, strict=True)
        )
    ]


def _teeth(outcomes: Sequence[Outcome]) -> list[tables.Row]:
    """The error on a node's own engines before and after it trained in a round."""
    return [
        {"split": each.seed, "node": node + 1, "round": number, "before": before, "after": after}
        for each in outcomes
        for node, teeth in each.teeth.items()
        for number, (before, after) in enumerate(teeth, 1)
    ]
