"""Large fleets: every rule is checked at every step; and check-ins are spread or meet."""

import math
from collections import Counter

import pytest

from coordinator.round import Late, Phase, RoundPolicy
from fleet.virtual import (
    HONEST,
    LATE,
    LYING,
    REAL_LOOKING,
    SILENT,
    SLOW,
    Behaviour,
    Simulation,
    VirtualTask,
    always,
)
from schedules.pacing import CHECK_INS_PER_SECOND
from tests.fleet.virtual.play import played, task


@pytest.mark.timeout(600)  # some 40 s; a busy machine gets time
def test_ten_thousand_devices_run_a_hundred_rounds():
    policy = RoundPolicy(goal=1000, minimum=500, deadline=600)
    one = VirtualTask(policy=policy, rounds=100, schedule=always(600.0), closing=1.0)
    record = Simulation(tasks=(one,), devices=REAL_LOOKING, starting=600.0, seed=1).run()
    assert record.complete
    assert [r.number for r in record.rounds] == list(range(1, 101))
    for r in record.rounds:
        assert r.ended - r.started <= 600 + 1e-6
        assert (r.phase is Phase.CLOSED) == (len(r.counted) >= 500)
        assert r.places <= r.asked <= 3000
        assert r.late
        assert r.duplicates
        assert r.refused
    # After the first one, which knew nothing of drop-outs, rounds reach their minimum.
    assert all(r.phase is Phase.CLOSED for r in record.rounds[1:])


@pytest.mark.parametrize("late", [Late.FOLD, Late.BUFFER])
def test_a_large_fleet_is_folded_or_buffered(late):
    policy = RoundPolicy(goal=200, minimum=100, deadline=600, late=late, max_staleness=3)
    devices = {kind: number // 8 for kind, number in REAL_LOOKING.items()}
    one = task(policy=policy, rounds=12, check_in=300.0, closing=2.0)
    record = played(devices, one, starting=300.0)
    assert record.complete
    assert sum(r.phase is Phase.CLOSED for r in record.rounds) >= 6
    assert sum(r.stale for r in record.rounds) > 50


def test_the_mix_is_of_ten_thousand_of_which_three_in_ten_are_silent():
    assert sum(REAL_LOOKING.values()) == 10_000
    assert REAL_LOOKING[SILENT] == 3_000
    assert REAL_LOOKING[SLOW]
    assert REAL_LOOKING[LATE]
    assert REAL_LOOKING[LYING]
    assert any(kind.drift and kind.offset for kind in REAL_LOOKING)
    assert any(kind.down for kind in REAL_LOOKING)


# Pacing


def test_a_small_population_meets():
    record = played({HONEST: 40}, task(rounds=20), starting=60)
    waited = {s: n for s, n in record.check_ins.items() if s > 120}
    met = sum(n for s, n in waited.items() if s % 60 < 8)  # the window is 6 s wide
    assert met > 0.6 * sum(waited.values())


def test_a_large_population_spreads():
    few = RoundPolicy(goal=10, minimum=5, deadline=1200)
    devices = {SILENT: 100, HONEST: 10_000}
    crowd = played(devices, task(policy=few, rounds=12, check_in=10), starting=200)
    end = crowd.rounds[-1].ended
    assert end > 500
    assert crowd.rate(300, end) <= 1.05 * CHECK_INS_PER_SECOND
    assert crowd.busiest(since=300) <= 1.6 * CHECK_INS_PER_SECOND


def test_a_gate_holds_off_a_population_that_starts_at_once():
    calm = [
        played({HONEST: 5_000}, task(rounds=3, check_in=60), starting=1, gated=gated)
        for gated in (True, False)
    ]
    assert all(record.complete for record in calm)
    gated, open_ = (Counter(record.check_ins) for record in calm)
    assert max(gated[s] for s in range(10, 60)) <= 1.5 * CHECK_INS_PER_SECOND
    assert sum(open_.values())


def test_devices_that_keep_failing_are_left_alone_ever_longer():
    broken = Behaviour(lies=1.0)
    record = played({broken: 12, HONEST: 20}, task(rounds=40))
    first, last = record.rounds[:5], record.rounds[-5:]
    assert sum(r.refused for r in last) < sum(r.refused for r in first)


def test_when_all_are_gone_for_good_no_empty_round_is_made():
    gone = Behaviour(vanishes=1.0, away=math.inf)
    record = played({gone: 15}, task(rounds=5))
    assert len(record.rounds) == 1
    assert record.complete
