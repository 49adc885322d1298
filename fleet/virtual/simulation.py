"""A simulation: who takes part, under which policy, and the run of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.round import Round, RoundPolicy
from fleet.virtual.behaviour import Behaviour
from fleet.virtual.device import Device
from fleet.virtual.record import Record
from fleet.virtual.server import MakeRound, Server
from fleet.virtual.timeline import Timeline


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """`rounds` rounds of one task under `policy`. All times in seconds.

    `devices` says how many there are of each behaviour. `check_in` is the schedule's usual wait
    between two check-ins; the devices start one by one within `starting`. After the last round
    what is under way still arrives. Should the devices be too few for that many rounds, it ends
    when nothing is left to happen, or at `limit`. `make_round` makes each round.
    """

    policy: RoundPolicy
    devices: Mapping[Behaviour, int]
    rounds: int = 1
    check_in: float = 60.0
    starting: float = 60.0
    seed: int = 0
    limit: float = 30 * 86400.0
    make_round: MakeRound = Round

    def run(self) -> Record:
        """Play it. Raises `InvariantBroken`."""
        timeline = Timeline(self.seed)
        population = sum(self.devices.values())
        server = Server(
            timeline, self.policy, self.rounds, self.check_in, population, self.make_round
        )
        kinds = [kind for kind, number in self.devices.items() for _ in range(number)]
        for number, kind in enumerate(kinds):
            start = timeline.random.random() * self.starting
            Device(f"d{number}", kind, timeline, server, self.check_in, start)
        complete = timeline.run(self.limit, server.referee.step)
        if complete:
            server.referee.drained()
        return Record(
            rounds=server.played(),
            check_ins=dict(sorted(server.check_ins.items())),
            seconds=timeline.now,
            complete=complete,
        )
