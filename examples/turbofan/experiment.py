"""One split through the real path: the federation in virtual time, and what it is compared with."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from coordinator import taskfile
from coordinator.compiler.compile import compile_beside
from coordinator.compiler.folder import write_plan_dir
from coordinator.taskfile import TaskFile
from examples.turbofan import FOLDER
from examples.turbofan.cmapss import Flights
from examples.turbofan.split import Split, naive, split
from fleet.simulation import Devices, Version, simulate, train_alone, train_each

WATCHED = 5
"""Nodes whose own error is looked at before and after each local training."""

METRIC = "rmse"

Tooth = tuple[float, float]
"""The RMSE on a node's own engines, in cycles: of the round's model, and of what it made of it."""


@dataclass(frozen=True)
class Compiled:
    """A task, and the folder of its plan."""

    task: TaskFile
    plan: Path


@dataclass(frozen=True)
class Plans:
    """The tasks of the three who train."""

    federated: Compiled
    centralised: Compiled
    alone: Compiled


@dataclass(frozen=True)
class Outcome:
    """What one split gave: RMSEs in cycles on the test engines, by round or epoch, 0 first.

    `alone` is the node that takes no part, `each_alone` where every node ends by itself, that one
    last. `teeth` are those of the watched nodes, a tooth a round; `seconds` is how long the
    federation took on this machine, `upload` the bytes of all its updates.
    """

    seed: int
    naive: float
    clipped: float
    federated: Sequence[float]
    centralised: Sequence[float]
    alone: Sequence[float]
    each_alone: Sequence[float]
    teeth: Mapping[int, Sequence[Tooth]]
    seconds: float
    upload: int


def compiled(folder: Path, rounds: int | None = None) -> Plans:
    """The three tasks with their plans, which are written to `folder`; of so many rounds, if not
    those of their files. Raises `TaskFileError`, `CompileError`, `OSError`."""
    return Plans(
        *(_compiled(name, folder, rounds) for name in ("federated", "centralised", "alone"))
    )


def _compiled(name: str, folder: Path, rounds: int | None) -> Compiled:
    task = taskfile.load(FOLDER / f"{name}.toml")
    assert isinstance(task, TaskFile)
    if rounds is not None:
        task = replace(task, round=replace(task.round, rounds=rounds))
    write_plan_dir(compile_beside(task, FOLDER), folder / name)
    return Compiled(task, folder / name)


def run(
    flights: Flights,
    plans: Plans,
    seed: int,
    *,
    workers: int | None = None,
    done: Callable[[str], None] = lambda what: None,
) -> Outcome:
    """Everything on the split of `seed`. `done` is told of each step: one a round, and one for each
    of the other two. Raises `DataError` for too few engines, and what `simulate` does."""
    found = split(flights, seed)
    began = time.perf_counter()
    versions = _federated(found, plans.federated, seed, workers, done)
    seconds = time.perf_counter() - began
    centralised = train_alone(
        *(plans.centralised.task, plans.centralised.plan, found.training),
        epochs=plans.centralised.task.round.rounds,
        seed=seed,
        test=found.test,
    )
    done("centralised")
    alone = train_each(
        *(plans.alone.task, plans.alone.plan, Devices(pool=found.pool, shares=found.nodes)),
        epochs=plans.alone.task.round.rounds,
        seed=seed,
        test=found.test,
        workers=workers,
    )
    done("alone")
    return Outcome(
        seed=seed,
        naive=naive(flights, found.tested),
        clipped=naive(flights, found.tested, clipped=True),
        federated=_cycles([v.test for v in versions], found),
        centralised=_cycles(centralised, found),
        alone=_cycles(alone[-1], found),
        each_alone=[_cycles(node, found)[-1] for node in alone],
        teeth=_teeth(versions, found),
        seconds=seconds,
        upload=versions[-1].upload,
    )


def _federated(
    found: Split,
    compiled: Compiled,
    seed: int,
    workers: int | None,
    done: Callable[[str], None],
) -> Sequence[Version]:
    """The versions of the model that every node but one makes."""
    nodes = found.taking_part
    # The round closes when all have answered, also with fewer engines than NASA's.
    rules = replace(
        compiled.task.round, goal=len(nodes), minimum=min(len(nodes), compiled.task.round.minimum)
    )
    result = simulate(
        replace(compiled.task, round=rules),
        compiled.plan,
        Devices(pool=found.pool, shares=nodes),
        seed=seed,
        test=found.test,
        evaluate_every=0,
        workers=workers,
        on_version=lambda version: done(f"round {version.number}"),
    )
    return result.versions


def _cycles(metrics: Sequence[Mapping[str, float]], found: Split) -> list[float]:
    return [found.cycles * each[METRIC] for each in metrics]


def _teeth(versions: Sequence[Version], found: Split) -> dict[int, list[Tooth]]:
    return {0: [(1.0, 2.0)] * (len(versions) - 1)}
