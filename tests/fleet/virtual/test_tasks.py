"""Late updates by each policy, and several tasks on one fleet."""

import pytest

from coordinator.round import Late, Phase, RoundPolicy
from coordinator.selection import Data, Fair, Speed, Uniform
from fleet.virtual import HONEST, LATE, SILENT, SLOW, Behaviour
from schedules.duration import Duration
from schedules.schedule import Schedule
from schedules.window import Window
from tests.fleet.virtual.play import EVERY, late, played, task

TARDY = Behaviour(training=550.0, spread=0.5)


@pytest.mark.parametrize("policy", [Late.FOLD, Late.BUFFER])
@pytest.mark.parametrize("closing", [0.0, 30.0])
def test_late_updates_are_folded_into_a_later_round(policy, closing):
    record = played({TARDY: 30}, task(policy=late(policy), rounds=10, closing=closing))
    assert sum(r.stale for r in record.rounds) > 5
    assert any(r.phase is Phase.CLOSED for r in record.rounds)


def test_where_late_ones_are_refused_none_is_stale():
    record = played({TARDY: 30, LATE: 30}, task(rounds=10))
    assert not any(r.stale for r in record.rounds)
    assert sum(r.late for r in record.rounds) > 5


def test_buffered_rounds_do_not_wait_for_the_slow():
    devices = {HONEST: 20, Behaviour(training=2000.0, spread=0.3): 20}
    buffered = played(devices, task(policy=late(Late.BUFFER, 20), rounds=20))
    waiting = played(devices, task(rounds=20))
    slow = {f"d{n}" for n in range(20, 40)}
    assert any(slow & set(r.counted) for r in buffered.rounds)
    assert not any(slow & set(r.counted) for r in waiting.rounds)


def test_buffered_places_held_by_the_gone_are_free_again_in_the_end():
    gone = Behaviour(vanishes=1.0, away=1e9)
    devices = {gone: 15, HONEST: 30}
    record = played(devices, task(policy=late(Late.BUFFER), rounds=20), limit=86400.0 * 3)
    assert len(record.rounds) == 20
    assert record.rounds[-1].phase is Phase.CLOSED


# Several tasks


def test_tasks_share_a_fleet_and_none_starves():
    tasks = [task(name=name, rounds=12) for name in ("one", "two", "three")]
    record = played({HONEST: 30, SLOW: 6, SILENT: 4}, *tasks)
    assert record.complete
    ends = {t.name: [r.ended for r in record.rounds if r.task == t.name] for t in tasks}
    assert all(len(ended) == 12 for ended in ends.values())
    last = [ended[-1] for ended in ends.values()]
    assert max(last) < 1.5 * min(last)


def test_rounds_of_tasks_overlap():
    tasks = (task(name="short", rounds=10), task(name="long", rounds=3, policy=late(Late.FOLD)))
    record = played({HONEST: 40, TARDY: 20}, *tasks)
    one, other = ([r for r in record.rounds if r.task == t.name] for t in tasks)
    assert any(a.started < b.ended and b.started < a.ended for a in one for b in other)


def test_a_greedy_task_does_not_starve_a_modest_one():
    greedy = task(name="greedy", rounds=8, policy=RoundPolicy(goal=40, minimum=5, deadline=300))
    modest = task(name="modest", rounds=8, policy=RoundPolicy(goal=4, minimum=2, deadline=300))
    record = played({Behaviour(training=120.0): 30}, greedy, modest)
    closed = [r for r in record.rounds if r.task == "modest" and r.phase is Phase.CLOSED]
    assert len(closed) == 8


@pytest.mark.parametrize("selection", [Data(), Speed(), Fair()])
def test_every_way_to_choose_keeps_the_rules(selection):
    assert played(EVERY, task(rounds=8, selection=selection)).complete


def test_fair_selection_serves_more_devices_than_chance():
    served = [
        {d for r in played({HONEST: 60}, task(rounds=6, selection=s)).rounds for d in r.counted}
        for s in (Fair(), Uniform())
    ]
    assert len(served[0]) > len(served[1])


def test_rounds_begin_in_the_schedule_s_window():
    nightly = Schedule(
        round_deadline=Duration(600.0),
        check_in=Duration(600.0),
        windows=(Window(start="01:00", end="03:00"),),
    )
    record = played({HONEST: 40, LATE: 5}, task(rounds=4, schedule=nightly))
    assert all(3600 <= r.started % 86400 < 3 * 3600 for r in record.rounds)
