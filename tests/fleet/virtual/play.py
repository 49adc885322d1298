"""What the tests of virtual fleets share: a small policy, every behaviour, and a run."""

from typing import Any

from coordinator.round import Late, RoundPolicy
from fleet.virtual import (
    DUPLICATE,
    FLAPPING,
    HONEST,
    LATE,
    LYING,
    SILENT,
    SKEWED,
    SLOW,
    Record,
    Simulation,
    VirtualTask,
    always,
)

POLICY = RoundPolicy(goal=10, minimum=5, deadline=600)
EVERY = dict.fromkeys((HONEST, SLOW, SILENT, FLAPPING, LATE, DUPLICATE, LYING, SKEWED), 8)
SOME = {HONEST: 9, SLOW: 2, LATE: 3, DUPLICATE: 3, LYING: 2, FLAPPING: 2}


def late(policy: Late, staleness: int = 2) -> RoundPolicy:
    """The policy with another one for late updates."""
    return RoundPolicy(goal=10, minimum=5, deadline=600, late=policy, max_staleness=staleness)


def task(*, check_in: float = 60.0, **settings: Any) -> VirtualTask:
    """A task of three rounds with fifteen places at first."""
    defaults = {"policy": POLICY, "rounds": 3, "over_selection": 1.5}
    return VirtualTask(**(defaults | {"schedule": always(check_in)} | settings))


def played(devices, *tasks: VirtualTask, **settings: Any) -> Record:
    """The record of a fleet; of one task when none is given."""
    return Simulation(tasks=tasks or (task(),), devices=devices, **settings).run()


def endings(record):
    """How rounds ended."""
    return {(r.phase, r.reason) for r in record.rounds}
