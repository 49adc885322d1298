"""A large fleet in virtual time: ten thousand devices, a hundred rounds, every rule checked."""

import time
from collections.abc import Callable

from benchmarks.report import Row, Section
from coordinator.round import Phase, RoundPolicy
from fleet.virtual import REAL_LOOKING, Simulation, VirtualTask, always

GOAL_SECONDS = 60.0
_ROUNDS, _QUICK_ROUNDS = 100, 10


def measure(quick: bool, say: Callable[[str], None]) -> Section:
    """Play it, on one core. When `quick`, a tenth of the rounds for a tenth of the goal."""
    section = Section("Virtual time: 10,000 devices that look real")
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    say(f"virtual: {rounds} rounds of 10,000 devices")
    policy = RoundPolicy(goal=1000, minimum=500, deadline=600)
    task = VirtualTask(policy=policy, rounds=rounds, schedule=always(600.0), closing=1.0)
    wall, began = time.perf_counter(), time.process_time()
    record = Simulation(tasks=(task,), devices=REAL_LOOKING, starting=600.0, seed=1).run()
    seconds, wall = time.process_time() - began, time.perf_counter() - wall
    goal = GOAL_SECONDS * rounds / _ROUNDS
    closed = sum(r.phase is Phase.CLOSED for r in record.rounds)
    updates = sum(len(r.counted) for r in record.rounds)
    section.rows += [
        Row(
            f"{rounds} rounds, on one core",
            f"{seconds:.1f} s",
            f"{wall:.1f} s by the clock on the wall",
            f"< {goal:g} s",
            seconds < goal and len(record.rounds) == rounds,
        ),
        Row("messages that arrived", f"{record.events / seconds:,.0f}/s", f"{record.events:,}"),
        Row("rounds closed", f"{closed}", f"{updates:,} updates counted"),
    ]
    section.notes.append(
        f"{record.rounds[-1].ended / 3600:.1f} hours of the fleet's time; 30 % of it silent."
    )
    return section
