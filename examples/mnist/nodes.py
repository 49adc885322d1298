"""Ten nodes, three splits: digits alike, 90 % of one class on each node, and one class only; and
all of it on one machine, trained by the same code."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from coordinator.taskfile import TaskFile
from examples.command import table_of
from examples.mnist import data
from examples.mnist.data import Pool
from examples.mnist.options import Options
from examples.plans import Compiled
from fleet.simulation import Devices, Result, simulate, train_alone
from fleet.simulation.pictures import curves
from fleet.simulation.tables import Cell, write_rows

CENTRALISED, FEDERATED = "centralised", "nodes"
"""Task files."""
SPLITS = {"uniform": 1 / data.NODES, "90 %": 0.9, "100 %": 1.0}
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
    alone, prepared = options.prepared(CENTRALISED), options.prepared(FEDERATED)
    pool = data.read(options.data, prepared.manifest.inputs, options.quick)
    found = [_centralised(options, alone, pool)]
    return found + [_federated(options, prepared, pool, name) for name in SPLITS]


def _centralised(options: Options, prepared: Compiled[TaskFile], pool: Pool) -> Learnt:
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


def _federated(options: Options, prepared: Compiled[TaskFile], pool: Pool, name: str) -> Learnt:
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
    """What each came to: of the test digits; and of the nodes' own held-out ones, by the published
    model and by personal versions of it."""
    best = found[0].accuracy[-1]
    return table_of(
        "Ten nodes, 2NN, and how much of each is one class",
        ["", "rounds", "test\ndigits", "to cen-\ntral", "own\ndigits", "worst\nnode",
         "nodes\ngain", "median\ngain", "uploaded", "took"],
        [_row(learnt, best) for learnt in found],
    )  # fmt: skip


def _row(learnt: Learnt, best: float) -> list[str]:
    last = learnt.accuracy[-1]
    return [
        learnt.name,
        str(len(learnt.accuracy) - 1),
        f"{100 * last:.2f}%",
        *(_fleets(learnt.result, 100 * (last - best)) if learnt.result else [""] * 6),
        f"{learnt.seconds:.0f} s",
    ]


def _fleets(result: Result, difference: float) -> list[str]:
    """The cells that only a fleet has."""
    last, personal = result.versions[-1], result.personal
    own = last.devices["accuracy"]
    return [
        f"{difference:+.2f}",
        f"{100 * own.mean:.2f}%",
        f"{100 * own.worst_decile:.2f}%",
        f"{personal.gaining} of {personal.devices}" if personal else "",
        f"{100 * personal.median:+.2f}" if personal else "",
        f"{last.upload / 1e6:.2f} MB",
    ]


def write(found: Sequence[Learnt], out: Path) -> None:
    """`nodes.csv`, of all versions; `nodes-personal.csv`, what each node gains by its own version
    of the last; and the picture `nodes`, as PNG and SVG."""
    rows: list[dict[str, Cell]] = []
    for name, accuracy, result, _ in found:
        if result:
            rows += [{"split": name, **row} for row in result.to_rows()]
        else:
            rows += [
                {"split": name, "version": epoch, "round": epoch, "test.accuracy": value}
                for epoch, value in enumerate(accuracy)
            ]
    write_rows(out / "nodes.csv", rows)
    write_rows(out / "nodes-personal.csv", _gains(found))
    curves(
        out / "nodes",
        {name: [(n, 100 * a) for n, a in enumerate(accuracy)] for name, accuracy, *_ in found},
        x="round (centralised: epoch)",
        y="right on the test digits, %",
        title="MNIST on ten nodes, and how much of each is one class",
    )


def _gains(found: Sequence[Learnt]) -> list[dict[str, Cell]]:
    return [
        {"split": learnt.name, "node": node, "gain": gain}
        for learnt in found
        if learnt.result and learnt.result.personal
        for node, gain in learnt.result.personal.per_device.items()
    ]
