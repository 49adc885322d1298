"""A fleet in virtual time: thousands of devices and one task's rounds, in seconds, no socket.

    record = Simulation(
        policy=RoundPolicy(goal=400, minimum=200, deadline=600, over_selection=1.3),
        devices={HONEST: 4000, SLOW: 800, SILENT: 200},
        rounds=20,
        seed=1,
    ).run()
    for played in record.rounds:
        print(played.number, played.phase, played.reason, len(played.counted), played.late)

What decides is the real thing: `coordinator.round`, `coordinator.aggregation`, `schedules.pacing`,
`schedules.backoff` (through the agent's life) and `edge_agent.lifecycle`. What surrounds it is
played: the network, the training, the clock. The same seed gives the same record.

A referee keeps its own account of each round and looks at every step. When the two differ it
raises `InvariantBroken`, whose text is the story of what led there. To try a round of your own,
give its class as `make_round`.
"""

from fleet.virtual.behaviour import (
    DUPLICATE,
    FLAPPING,
    HONEST,
    LATE,
    LYING,
    SILENT,
    SLOW,
    Behaviour,
)
from fleet.virtual.record import PlayedRound, Record
from fleet.virtual.referee import InvariantBroken
from fleet.virtual.simulation import Simulation

__all__ = [
    "DUPLICATE",
    "FLAPPING",
    "HONEST",
    "LATE",
    "LYING",
    "SILENT",
    "SLOW",
    "Behaviour",
    "InvariantBroken",
    "PlayedRound",
    "Record",
    "Simulation",
]
