"""Each behaviour alone, and what a round makes of it."""

import pytest

from coordinator.round import Late, Phase, Reason
from fleet.virtual import FLAPPING, HONEST, LATE, LYING, SILENT, SKEWED, Behaviour
from tests.fleet.virtual.play import EVERY, endings, late, played, task


def test_honest_devices_reach_the_goal_before_the_deadline():
    record = played({HONEST: 100})
    assert endings(record) == {(Phase.CLOSED, Reason.GOAL)}
    for r in record.rounds:
        assert len(set(r.counted)) == 10
        assert r.places <= r.asked <= 20
        assert r.ended - r.started < 200
        assert (r.duplicates, r.refused, r.given_up) == (0, 0, 0)


def test_slow_devices_are_not_waited_for_beyond_the_deadline():
    tail = Behaviour(training=900, spread=2.0)
    record = played({tail: 30}, task(rounds=20))
    assert (Phase.CLOSED, Reason.DEADLINE) in endings(record)
    for r in record.rounds:
        assert r.ended - r.started <= 600 + 1e-6
        assert (r.phase is Phase.CLOSED) == (len(r.counted) >= 5)


def test_silent_devices_abandon_the_round_at_its_deadline():
    record = played({SILENT: 100})
    assert endings(record) == {(Phase.ABANDONED, Reason.TOO_FEW)}
    assert all(r.ended == r.started + 600 and not r.counted for r in record.rounds)


def test_over_selection_follows_the_devices_that_vanish():
    record = played({Behaviour(vanishes=0.5, away=7200): 200}, task(rounds=12, over_selection=1.0))
    assert record.rounds[0].asked == 10
    assert record.rounds[-1].asked > 15


def test_a_silent_device_is_given_its_own_assignment_when_it_comes_back():
    forgetful = Behaviour(vanishes=0.8, away=20)
    assert endings(played({forgetful: 15})) == {(Phase.CLOSED, Reason.GOAL)}


def test_places_of_flapping_devices_that_give_up_go_to_others():
    record = played({FLAPPING: 60})
    assert endings(record) == {(Phase.CLOSED, Reason.GOAL)}
    assert sum(r.given_up for r in record.rounds) > 0


def test_late_updates_never_count_where_they_are_refused():
    record = played({LATE: 100})
    assert endings(record) == {(Phase.ABANDONED, Reason.TOO_FEW)}
    assert all(r.late >= 15 for r in record.rounds)


def test_late_updates_of_a_round_that_reached_its_goal_do_not_count_in_the_next():
    record = played({HONEST: 80, LATE: 40}, task(rounds=10))
    assert (Phase.CLOSED, Reason.GOAL) in endings(record)
    assert sum(r.late for r in record.rounds) > 10
    late = {f"d{n}" for n in range(80, 120)}
    assert not any(late & set(r.counted) for r in record.rounds)


def test_what_arrives_twice_counts_once():
    record = played({Behaviour(repeats=2): 30}, task(rounds=5))
    assert endings(record) == {(Phase.CLOSED, Reason.GOAL)}
    assert all(len(set(r.counted)) == len(r.counted) == 10 for r in record.rounds)
    assert all(r.duplicates == 20 for r in record.rounds)


def test_lies_are_refused_and_their_places_go_to_others():
    record = played({LYING: 100})
    assert endings(record) == {(Phase.ABANDONED, Reason.TOO_FEW)}
    assert all(not r.counted for r in record.rounds)
    assert record.rounds[0].refused > 15


# Clocks


def test_a_clock_that_shows_a_wrong_time_changes_nothing():
    one, other = (played({Behaviour(offset=days * 86400.0): 40}) for days in (0, 400))
    assert [r.counted for r in one.rounds] == [r.counted for r in other.rounds]


def test_a_clock_that_runs_wrong_makes_some_late_and_the_round_still_ends_in_time():
    wrong = Behaviour(training=500.0, spread=0.3, drift=0.5)
    record = played({wrong: 60}, task(rounds=6))
    assert sum(r.late for r in record.rounds) > 0
    assert all(r.ended - r.started <= 600 + 1e-6 for r in record.rounds)
    right = played({Behaviour(training=500.0, spread=0.3): 60}, task(rounds=6))
    assert sum(r.late for r in right.rounds) < sum(r.late for r in record.rounds)


def test_skewed_devices_serve_like_others():
    assert endings(played({SKEWED: 60})) == {(Phase.CLOSED, Reason.GOAL)}


# Repeatable


def test_the_same_seed_gives_the_same_record_and_another_one_another():
    one, same, other = (played(EVERY, seed=seed) for seed in (7, 7, 8))
    assert one == same
    assert one != other


def test_a_limit_cuts_the_simulation_short():
    record = played({HONEST: 30}, task(rounds=1000), limit=2000)
    assert not record.complete
    assert 0 < len(record.rounds) < 1000
    assert record.seconds <= 2000


def test_bad_behaviour_is_described_with_what_is_allowed():
    with pytest.raises(ValueError, match="chances from 0 to 1"):
        Behaviour(lies=2)
    with pytest.raises(ValueError, match="seconds above 0"):
        Behaviour(training=0)
    with pytest.raises(ValueError, match="0 or more"):
        Behaviour(repeats=-1)
    with pytest.raises(ValueError, match="from 0 to below 1"):
        Behaviour(drift=1)
    with pytest.raises(ValueError, match="rounds: 1 or more"):
        task(rounds=0)
    with pytest.raises(ValueError, match="staleness_exponent: 0 or more"):
        task(staleness_exponent=-1)
    with pytest.raises(ValueError, match="would weigh nothing"):
        played(EVERY, task(policy=late(Late.FOLD, 3), staleness_exponent=20))


@pytest.mark.parametrize("spread", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_spread_that_no_time_can_have_is_an_error(spread: float) -> None:
    with pytest.raises(ValueError, match="spread"):
        Behaviour(spread=spread)
