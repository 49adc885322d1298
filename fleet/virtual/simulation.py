"""A simulation: who takes part, in which tasks, and the run of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from fleet.virtual.behaviour import Behaviour
from fleet.virtual.device import Device
from fleet.virtual.record import Record
from fleet.virtual.server import Server
from fleet.virtual.task import VirtualTask
from fleet.virtual.timeline import Timeline
from schedules.pacing import Gate


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """`tasks` (of different names) on one fleet; any device serves any of them, one at a time.

    `devices` says how many there are of each behaviour; they start one by one within `starting`
    seconds. `gated`: the coordinator holds off a stampede. After the last round what is under way
    still arrives. Should the devices be too few for that many rounds, it ends when nothing is left
    to happen, or at `limit`, in seconds.
    """

    tasks: tuple[VirtualTask, ...]
    devices: Mapping[Behaviour, int]
    starting: float = 60.0
    seed: int = 0
    gated: bool = False
    limit: float = 30 * 86400.0

    def run(self) -> Record:
        """Play it. Raises `InvariantBroken`; `ValueError` for a `staleness_exponent` with which a
        late update weighs too little to be summed without rounding."""
        timeline = Timeline(self.seed)
        population = sum(self.devices.values())
        server = Server(timeline, self.tasks, population, Gate() if self.gated else None)
        interval = min(float(task.schedule.check_in) for task in self.tasks)
        kinds = [kind for kind, number in self.devices.items() for _ in range(number)]
        for number, kind in enumerate(kinds):
            start = timeline.random.random() * self.starting
            Device(f"d{number}", kind, timeline, server, interval, start)
        complete = timeline.run(self.limit, server.step)
        if complete:
            server.drained()
        return Record(
            rounds=server.played(),
            check_ins=dict(sorted(server.check_ins.items())),
            seconds=timeline.now,
            events=timeline.events,
            complete=complete,
        )
