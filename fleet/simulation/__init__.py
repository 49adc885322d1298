"""A fleet in one process: hundreds of devices with their own data and troubles, real training, real
rounds, in virtual time. What users test their own tasks with before they touch a device.

    from pathlib import Path

    import numpy as np

    from coordinator import taskfile
    from edge_agent.examples import Examples
    from fleet.digits import PLAN, TASK, data
    from fleet.simulation import Devices, simulate
    from fleet.virtual import SILENT, Behaviour

    pool, test = data.load()                      # arrays by the names of the plan's inputs
    shares = np.array_split(np.arange(len(pool["label"])), 20)
    quick = Behaviour(training=3.0)               # seconds, as the task's deadline is: 10 s
    result = simulate(
        taskfile.load(TASK),
        PLAN,                                     # `coordinator compile TASK.toml -o FOLDER`
        Devices(pool=Examples(pool), shares=shares, behaviours=[quick] * 16 + [SILENT] * 4),
        test=Examples(test),
        seed=1,
        until=lambda version: version.test["accuracy"] >= 0.9,
    )
    for version in result.versions:
        print(version.number, version.test["accuracy"], version.updates, version.upload)

Devices train by the agent's own code, write their updates by it, and keep what it keeps from round
to round; the coordinator's own code reads, checks and sums them, and opens and closes the rounds.
What is played is the network, the clock and what a `Behaviour` says: no socket, no waiting.

Training is real work: it is done by `workers` processes. Chance is drawn from the seed, the device
and the round, and updates are summed in the order of their virtual arrival: the same seed gives the
same result to the last bit, whatever the number of workers.
"""

from fleet.simulation.alone import train_alone, train_each
from fleet.simulation.crew import WorkerDied
from fleet.simulation.devices import Devices
from fleet.simulation.result import Learnt, Personal, Result, Version
from fleet.simulation.simulate import SimulationError, simulate

__all__ = [
    "Devices",
    "Learnt",
    "Personal",
    "Result",
    "SimulationError",
    "Version",
    "WorkerDied",
    "simulate",
    "train_alone",
    "train_each",
]
