"""What the splits gave: a table for people, CSV files, and two pictures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from rich.table import Table

from examples import command
from examples.turbofan.experiment import Outcome
from fleet.simulation import pictures, tables

WORST = 1.03
"""At most so much may the federated model's error be above the centralised one's."""
LEAST = 1.40
"""At least so many times the federated model's error is the naive guess's."""
MOSTLY = 0.8
"""In this part of the splits, or more, the non-participant ends higher."""

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Figures:
    """Of one split, or the means of several, of the ratios too: RMSEs in cycles after the last
    round or epoch. `worse_alone` is the part of the nodes that end higher by themselves than the
    federated model does."""

    naive: float
    clipped: float
    alone: float
    federated: float
    centralised: float
    near: float
    gain: float
    worse_alone: float


_HEADS = {
    "naive": "naive",
    "alone": "alone",
    "federated": "federated",
    "centralised": "centralised",
    "near": "fed/centr",
    "gain": "naive/fed",
    "worse_alone": "worse alone",
}
_FORMATS = {"near": ".3f", "gain": ".3f", "worse_alone": ".0%"}


def figures(outcome: Outcome) -> Figures:
    """Of one split."""
    end = outcome.federated[-1]
    return Figures(
        naive=outcome.naive,
        clipped=outcome.clipped,
        alone=outcome.alone[-1],
        federated=end,
        centralised=outcome.centralised[-1],
        near=end / outcome.centralised[-1],
        gain=outcome.naive / end,
        worse_alone=fmean(node > end for node in outcome.each_alone),
    )


def means(outcomes: Sequence[Outcome]) -> Figures:
    """Over all splits."""
    rows = [asdict(figures(each)) for each in outcomes]
    return Figures(**{name: fmean(row[name] for row in rows) for name in rows[0]})


def table(outcomes: Sequence[Outcome]) -> Table:
    """The figures of each split, and their means."""
    rows = [[str(each.seed), *_texts(figures(each))] for each in outcomes]
    found = command.table_of(
        "RMSE on the test engines, in cycles", ["split", *_HEADS.values()], rows
    )
    found.add_section()
    found.add_row("mean", *_texts(means(outcomes)), style="bold")
    return found


def goals(outcomes: Sequence[Outcome]) -> list[tuple[str, bool]]:
    """What is asked of the figures, and whether they hold it."""
    mean = means(outcomes)
    beaten = sum(each.alone[-1] > each.federated[-1] for each in outcomes)
    return [
        (f"federated / centralised {mean.near:.3f}, at most {WORST:.2f}", mean.near <= WORST),
        (f"naive / federated {mean.gain:.3f}, at least {LEAST:.2f}", mean.gain >= LEAST),
        (
            f"the non-participant is worse than the federated model in {beaten} of "
            f"{len(outcomes)} splits, at least four of five",
            beaten >= MOSTLY * len(outcomes),
        ),
    ]


def write(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """`splits.csv`, `rmse.csv` and `nodes.csv`, and as PNG and SVG `rmse` and `nodes`. Raises
    `PictureError`, `OSError`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"split": each.seed, **asdict(figures(each))} for each in outcomes]
    tables.write_rows(folder / "splits.csv", rows)
    tables.write_rows(folder / "rmse.csv", _steps(outcomes))
    tables.write_rows(folder / "nodes.csv", _teeth(outcomes))
    pictures.curves(
        folder / "rmse",
        {
            "federated": _mean([each.federated for each in outcomes]),
            "centralised": _mean([each.centralised for each in outcomes]),
            "a node alone": _mean([each.alone for each in outcomes]),
            "naive: 181 cycles each": _flat(outcomes),
        },
        x="round, or epoch",
        y="RMSE on the test engines, cycles",
        title=f"Remaining life of turbofans, mean of {len(outcomes)} splits",
    )
    pictures.curves(
        folder / "nodes",
        {f"node {node + 1}": sawtooth(teeth) for node, teeth in outcomes[0].teeth.items()},
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


def _texts(found: Figures) -> list[str]:
    return [format(getattr(found, name), _FORMATS.get(name, ".1f")) for name in _HEADS]


def _mean(lines: Sequence[Sequence[float]]) -> Curve:
    return [(float(at), fmean(values)) for at, values in enumerate(zip(*lines, strict=True))]


def _flat(outcomes: Sequence[Outcome]) -> Curve:
    value = fmean(each.naive for each in outcomes)
    return [(0.0, value), (len(outcomes[0].federated) - 1.0, value)]


def _steps(outcomes: Sequence[Outcome]) -> list[tables.Row]:
    """The error after each round, or epoch."""
    return [
        {"split": each.seed, "step": step, "federated": f, "centralised": c, "alone": a}
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
