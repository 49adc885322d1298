"""One split through the real path: the federation, and what it is compared with."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from coordinator.taskfile import TaskFile
from examples.plans import Compiled, compiled, training_task
from examples.turbofan import FOLDER
from examples.turbofan.cmapss import Flights
from examples.turbofan.federation import Federation
from examples.turbofan.split import Split, naive, split
from fleet.simulation import Devices, Version, train_alone, train_each

METRIC = "rmse"

Tooth = tuple[float, float]
"""The RMSE on a node's own engines, in cycles: of the round's model, and of what it made of it."""


@dataclass(frozen=True)
class Plans:
    """The tasks of the three who train."""

    federated: Compiled[TaskFile]
    centralised: Compiled[TaskFile]
    alone: Compiled[TaskFile]


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


def plans(folder: Path, rounds: int | None = None) -> Plans:
    """The three tasks with their plans, which are written to `folder`; of so many rounds, if not
    those of their files. Raises `TaskFileError`, `CompileError`, `OSError`."""
    return Plans(
        *(_compiled(name, folder, rounds) for name in ("federated", "centralised", "alone"))
    )


def _compiled(name: str, folder: Path, rounds: int | None) -> Compiled[TaskFile]:
    task = training_task(FOLDER / f"{name}.toml")
    if rounds is not None:
        task = replace(task, round=replace(task.round, rounds=rounds))
    return compiled(task, FOLDER, folder)


def run(
    flights: Flights,
    plans: Plans,
    seed: int,
    *,
    watch: bool = False,
    workers: int | None = None,
    done: Callable[[str], None] = lambda what: None,
) -> Outcome:
    """Everything on the split of `seed`; `watch` some nodes. `done` is told of each step: the
    first model, one a round, one for each of the other two. Raises `DataError` for too few engines,
    and what `simulate` does."""
    found = split(flights, seed)
    federation = Federation(found, plans.federated, seed, workers)
    began = time.perf_counter()
    versions = federation.run(watch, lambda version: done(f"round {version.number}")).versions
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


def _teeth(versions: Sequence[Version], found: Split) -> dict[int, list[Tooth]]:
    """Of each watched node, a tooth a round."""
    teeth: dict[int, list[Tooth]] = {}
    for version in versions:
        for node, learnt in sorted(version.watched.items()):
            before, after = _cycles(learnt, found)
            teeth.setdefault(node, []).append((before, after))
    return teeth


def _cycles(metrics: Sequence[Mapping[str, float]], found: Split) -> list[float]:
    return [found.cycles * each[METRIC] for each in metrics]
