"""Ten nodes, three splits: digits alike, 90 % of one class on each node, and one class only; and
all of it on one machine, trained by the same code."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from examples.mnist import data
from examples.mnist.data import Pool
from examples.mnist.make import Prepared
from examples.mnist.options import Options
from fleet.simulation import Devices, Result, simulate, train_alone
from fleet.simulation.pictures import curves
from fleet.simulation.tables import write_rows

CENTRALISED = "centralised"


NODES = "nodes"
SPLITS = {"uniform": 1 / data.NODES, "90 % one class": 0.9, "100 % one class": 1.0}
"""How much of a node's digits is of one class."""


class Learnt(NamedTuple):
    """The accuracy on the test digits before the first round, or epoch, and after each; what is
    known of the versions beside it, if it was learnt by a fleet; and how long it took."""

    name: str
    accuracy: list[float]
    result: Result | None
    seconds: float


def run(options: Options) -> list[Learnt]:
    """All four, the centralised first."""
    alone, prepared = options.prepared(CENTRALISED), options.prepared(NODES)
    pool = data.read(options.data, prepared.manifest.inputs, options.quick)
    found = [_centralised(options, alone, pool)]
    return found + [_federated(options, prepared, pool, name) for name in SPLITS]


def _centralised(options: Options, prepared: Prepared, pool: Pool) -> Learnt:
    """On the digits that the nodes train on where they are alike."""
    train, _ = data.nodes(pool.labels, SPLITS["uniform"], options.seed)
    epochs = prepared.task.training.epochs
    with options.watch.run(CENTRALISED, epochs) as bar:
        figures = train_alone(
            prepared.task,
            prepared.plan,
            data.together(pool, train),
            epochs=epochs,
            seed=options.seed,
            test=pool.test,
        )
        bar.at(epochs, figures[-1])
        return Learnt(CENTRALISED, [f["accuracy"] for f in figures], None, bar.seconds)


def _federated(options: Options, prepared: Prepared, pool: Pool, name: str) -> Learnt:
    train, held_out = data.nodes(pool.labels, SPLITS[name], options.seed)
    with options.watch.run(name, prepared.task.round.rounds) as bar:
        result = simulate(
            prepared.task,
            prepared.plan,
            Devices(pool=pool.digits, shares=train, held_out=held_out),
            seed=options.seed,
            test=pool.test,
            workers=options.workers,
            on_version=bar.version,
        )
        accuracy = [version.test["accuracy"] for version in result.versions]
        return Learnt(name, accuracy, result, bar.seconds)


def table(found: Sequence[Learnt]) -> Table:
    """What each came to, in percent of the test digits."""
    made = Table("nodes", "rounds", "test accuracy", "below centralised", "worst node", "uploaded",
                 "took", title="Ten nodes, 2NN")  # fmt: skip
    best = found[0].accuracy[-1]
    for name, accuracy, result, seconds in found:
        last = result.versions[-1] if result else None
        made.add_row(
            name,
            str(len(accuracy) - 1),
            f"{100 * accuracy[-1]:.2f} %",
            f"{100 * (best - accuracy[-1]):.2f}" if last else "",
            f"{100 * last.devices['accuracy'].worst_decile:.2f} %" if last else "",
            f"{last.upload / 1e6:.2f} MB" if last else "",
            f"{seconds:.0f} s",
        )
    return made


def write(found: Sequence[Learnt], out: Path) -> None:
    """`nodes.csv`, `nodes.png` and `nodes.svg`."""
    rows: list[dict[str, float | int | str]] = []
    for name, accuracy, result, _ in found:
        if result:
            rows += [{"split": name, **row} for row in result.to_rows()]
        else:
            rows += [
                {"split": name, "version": epoch, "round": epoch, "test.accuracy": value}
                for epoch, value in enumerate(accuracy)
            ]
    write_rows(out / "nodes.csv", rows)
    curves(
        out / "nodes",
        {name: [(n, 100 * a) for n, a in enumerate(accuracy)] for name, accuracy, *_ in found},
        x="round (centralised: epoch)",
        y="right on the test digits, %",
        title="MNIST on ten nodes",
    )
