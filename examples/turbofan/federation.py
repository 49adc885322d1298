"""The federation of one split: every node but one, in virtual time; and how its nodes see it."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from coordinator.taskfile import TaskFile
from examples.plans import Compiled
from examples.turbofan.split import Split
from fleet.simulation import Devices, Result, Version, simulate, train_alone
from wire.checkpoint import Weights

WATCHED = 3
"""Nodes whose own error is looked at before and after each local training."""
METRIC = "rmse"

Tooth = tuple[float, float]
"""The RMSE on a node's own engines, in cycles: of the round's model, and of what it made of it."""


@dataclass(frozen=True)
class Federation:
    """Who takes part in what. `workers` processes train; `None`: as many as there are cores."""

    split: Split
    compiled: Compiled[TaskFile]
    seed: int
    workers: int | None = None

    def run(
        self,
        on_version: Callable[[Version], None] | None = None,
        until: Callable[[Version], bool] | None = None,
    ) -> Result:
        """All rounds, or those `until` a version will do. Raises as `simulate` does."""
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
            until=until,
            workers=self.workers,
            on_version=on_version,
        )

    def teeth(self, done: Callable[[], None] = lambda: None) -> dict[int, list[Tooth]]:
        """Of the first nodes, a tooth a round; `done` is told of each round. A node trains from the
        round's model as it does in a round, at the task's whole learning rate."""
        nodes = range(min(WATCHED, len(self.split.taking_part)))
        teeth: dict[int, list[Tooth]] = {node: [] for node in nodes}
        for version in range(self.compiled.task.round.rounds):
            weights = self._weights(version)
            for node in nodes:
                teeth[node].append(self._tooth(node, version, weights))
            done()
        return teeth

    def _weights(self, number: int) -> Weights | None:
        """Those of a version; of the first, the plan's own: `None`. A seed gives the same versions
        again, and a simulation that ends with this one has its weights."""
        if number == 0:
            return None
        return self.run(until=lambda version: version.number >= number).weights

    def _tooth(self, node: int, version: int, weights: Weights | None) -> Tooth:
        before, after = train_alone(
            self.compiled.task,
            self.compiled.plan,
            self.split.pool.where(self.split.nodes[node]),
            epochs=1,
            seed=version,
            weights=weights,
        )
        return before[METRIC] * self.split.cycles, after[METRIC] * self.split.cycles
