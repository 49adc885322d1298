"""The rows of FedAvg's tables (McMahan et al., 2017): rounds until a model has the target accuracy,
with a hundred devices."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from examples.command import table_of
from examples.mnist import data
from examples.mnist.options import Options
from fleet.simulation import Devices, Result, Version, simulate
from fleet.simulation.pictures import bars, curves
from fleet.simulation.tables import Cell, write_rows


class Row(NamedTuple):
    """A row of the paper's tables: its name, which is its task file's; the model; whether the
    digits are alike on all devices, or two shards each; the target; the paper's rounds to it."""

    name: str
    model: str
    iid: bool
    target: float
    paper: int


ROWS = {
    row.name: row
    for row in (
        Row("2nn-iid", "2NN", True, 0.97, 87),
        Row("2nn-shards", "2NN", False, 0.97, 664),
        Row("2nn-all-iid", "2NN", True, 0.97, 70),
        Row("2nn-all-shards", "2NN", False, 0.97, 380),
        Row("cnn-iid", "CNN", True, 0.99, 18),
        Row("cnn-shards", "CNN", False, 0.99, 206),
    )
}
USUAL = tuple(name for name in ROWS if name != "cnn-shards")
"""What is run where nothing is named: the last row takes hours."""
QUICK = ("2nn-iid", "2nn-shards")

_DEAL = 1  # what chance is drawn for; 2 deals to the nodes


class Reached(NamedTuple):
    """What came of a row with a codec, and the seconds it took. `devices` a round upload `weights`
    each, in the paper."""

    row: Row
    result: Result
    codec: str
    devices: int
    weights: int
    seconds: float

    @property
    def last(self) -> Version:
        """The version that has the target, or where it was given up."""
        return self.result.versions[-1]

    @property
    def there(self) -> bool:
        """Whether the target was reached."""
        return self.last.test["accuracy"] >= self.row.target

    @property
    def paper_upload(self) -> int:
        """Bytes that the paper's rounds upload, at four a weight."""
        return 4 * self.weights * self.devices * self.row.paper


def run(options: Options, name: str) -> Reached:
    """One row, until its target or its task's last round."""
    row, prepared = ROWS[name], options.prepared(name)
    pool = data.read(options.data, prepared.manifest.inputs, options.quick)
    rng = np.random.default_rng([options.seed, _DEAL])
    shares = data.deal(pool.labels, row.iid, rng)
    with options.watch.run(name, prepared.task.round.rounds) as bar:
        result = simulate(
            prepared.task,
            prepared.plan,
            Devices(pool=pool.digits, shares=shares),
            seed=options.seed,
            test=pool.test,
            evaluate_every=0,
            until=lambda version: version.test["accuracy"] >= row.target,
            workers=options.workers,
            on_version=bar.version,
        )
        weights = sum(p.size for p in prepared.manifest.parameters)
        return Reached(
            row, result, prepared.task.upload.codec, prepared.task.round.goal, weights, bar.seconds
        )


def table(found: Sequence[Reached]) -> Table:
    """Rounds and bytes to the target, beside the paper's."""
    return table_of(
        "FedAvg's rows, a hundred devices",
        ["", "codec", "target", "rounds", "paper", "uploaded", "paper, 4 B\na weight", "took"],
        map(_row, found),
    )


def _row(reached: Reached) -> list[str]:
    row, last = reached.row, reached.last
    missed = f"> {last.round} ({100 * last.test['accuracy']:.2f}%)"
    return [
        row.name,
        reached.codec,
        f"{100 * row.target:.0f}%",
        str(last.round) if reached.there else missed,
        str(row.paper),
        f"{last.upload / 1e6:.2f} MB",
        f"{reached.paper_upload / 1e6:,.0f} MB",
        f"{reached.seconds:.0f} s",
    ]


def write(found: Sequence[Reached], out: Path) -> None:
    """`fedavg.csv`, a row for each version of each model; `fedavg-rounds`, bars, and a picture of
    each model's errors, as PNG and SVG."""
    rows: list[dict[str, Cell]] = []
    for reached in found:
        name: dict[str, Cell] = {"row": reached.row.name, "paper": reached.row.paper}
        rows += [name | row for row in reached.result.to_rows()]
    write_rows(out / "fedavg.csv", rows)
    there = [reached for reached in found if reached.there]
    if there:
        bars(
            out / "fedavg-rounds",
            {r.row.name: {"paper": r.row.paper, "here": r.last.round} for r in there},
            y="rounds to the target",
            title="FedAvg's rows: rounds to 97 % (2NN), 99 % (CNN)",
        )
    for model in dict.fromkeys(reached.row.model for reached in found):
        _draw(model, [reached for reached in found if reached.row.model == model], out)


def _draw(model: str, found: Sequence[Reached], out: Path) -> None:
    curves(
        out / f"fedavg-{model.lower()}",
        {
            r.row.name: [(v.round, 100 * (1 - v.test["accuracy"])) for v in r.result.versions]
            for r in found
        },
        x="round",
        y="wrong on the test digits, %",
        title=f"{model} on a hundred devices",
        goal=round(100 * (1 - found[0].row.target), 6),
        log=True,
    )
