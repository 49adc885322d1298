"""Training without rounds, by the agent's own code: a device alone, or all data in one place."""

from pathlib import Path

import numpy as np

from coordinator.taskfile import TaskFile
from edge_agent.examples import Examples
from fleet.simulation.devices import Devices
from fleet.simulation.learning import chance
from fleet.simulation.simulate import staged
from fleet.simulation.workshop import Workshop
from wire import checkpoint
from wire.checkpoint import Weights


def train_alone(
    task: TaskFile,
    plan: Path,
    examples: Examples,
    *,
    epochs: int,
    seed: int,
    test: Examples | None = None,
    weights: Weights | None = None,
) -> list[dict[str, float]]:
    """Train on `examples`, for so many epochs in a row, with the task's batch and optimiser, in
    this process; the metrics on `test` (or on the examples, without it) before the first epoch and
    after each.

    It starts from `weights`, or the plan's own. A schedule over rounds stays at its beginning, one
    over steps is stretched over all epochs. Raises as `simulate` does, and `Diverged`.
    """
    devices = Devices(pool=examples, shares=[np.arange(len(examples))])
    (found,) = train_each(
        *(task, plan, devices),
        epochs=epochs,
        seed=seed,
        test=examples if test is None else test,
        weights=weights,
        workers=0,
    )
    return found


def train_each(
    task: TaskFile,
    plan: Path,
    devices: Devices,
    *,
    epochs: int,
    seed: int,
    test: Examples,
    weights: Weights | None = None,
    workers: int | None = None,
) -> list[list[dict[str, float]]]:
    """Each device alone, on its own share, as `train_alone` does it for one; side by side."""
    with staged(task, plan, devices, test, workers) as stage:
        model = stage.folder / "start.safetensors"
        model.write_bytes(checkpoint.write(weights) if weights else stage.plan.initial)
        asked = [
            stage.crew.ask(
                device, Workshop.alone, str(model), device, epochs, chance(seed, device, 0)
            )
            for device in range(len(devices))
        ]
        return [pending.result() for pending in asked]
