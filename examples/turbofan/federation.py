"""The federation of one split: every node but one, in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from coordinator.taskfile import TaskFile
from examples.plans import Compiled
from examples.turbofan.split import Split
from fleet.simulation import Devices, Result, Version, simulate

WATCHED = 3
"""Nodes whose error on their own engines is looked at before and after each local training."""


@dataclass(frozen=True)
class Federation:
    """Who takes part in what. `workers` processes train; `None`: as many as there are cores."""

    split: Split
    compiled: Compiled[TaskFile]
    seed: int
    workers: int | None = None

    def run(self, watch: bool, on_version: Callable[[Version], None]) -> Result:
        """All rounds, in which the first nodes are watched, or none. Raises as `simulate` does."""
        nodes = self.split.taking_part
        task = self.compiled.task
        # A round closes when all have answered, also where there are fewer engines than NASA's.
        rules = replace(task.round, goal=len(nodes), minimum=min(len(nodes), task.round.minimum))
        return simulate(
            replace(task, round=rules),
            self.compiled.plan,
            Devices(pool=self.split.pool, shares=nodes),
            seed=self.seed,
            test=self.split.test,
            evaluate_every=0,
            watched=range(min(WATCHED, len(nodes))) if watch else (),
            workers=self.workers,
            on_version=on_version,
        )
