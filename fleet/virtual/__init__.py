"""A fleet in virtual time: thousands of devices and some tasks' rounds, in seconds, no socket.

    policy = RoundPolicy(goal=400, minimum=200, deadline=600)
    record = Simulation(
        tasks=(VirtualTask(policy=policy, rounds=20),),
        devices={HONEST: 4000, SLOW: 800, SILENT: 200},
        seed=1,
    ).run()
    for played in record.rounds:
        print(played.number, played.phase, played.reason, len(played.counted), played.late)

What decides is the real thing: `coordinator.round`, `coordinator.offer`, `coordinator.selection`,
`coordinator.aggregation`, `schedules.pacing`, `schedules.backoff` (through the agent's life) and
`edge_agent.lifecycle`. What surrounds it is played: the network, the training, the clocks, and what
is otherwise in the store. The same seed gives the same record.

What devices learn is a seam, `fleet.virtual.learning`: here one weight, whose changes are drawn; in
`fleet.simulation` a task's own model, really trained.

A referee keeps its own account of each task and looks at every step. When the two differ it raises
`InvariantBroken`, whose text is the story of what led there. To try a round of your own, give its
class as `make_round`.
"""

from fleet.virtual.behaviour import (
    DUPLICATE,
    FLAPPING,
    HONEST,
    LATE,
    LYING,
    REAL_LOOKING,
    SILENT,
    SKEWED,
    SLOW,
    Behaviour,
)
from fleet.virtual.record import PlayedRound, Record
from fleet.virtual.simulation import Simulation
from fleet.virtual.story import InvariantBroken
from fleet.virtual.task import VirtualTask, always

__all__ = [
    "DUPLICATE",
    "FLAPPING",
    "HONEST",
    "LATE",
    "LYING",
    "REAL_LOOKING",
    "SILENT",
    "SKEWED",
    "SLOW",
    "Behaviour",
    "InvariantBroken",
    "PlayedRound",
    "Record",
    "Simulation",
    "VirtualTask",
    "always",
]
