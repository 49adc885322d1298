"""The round: each transition by itself. `test_round_any_order` has them in any order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.round import (
    Arrival,
    Ending,
    Held,
    Late,
    Phase,
    Reason,
    Round,
    RoundPolicy,
)
from wire.messages import WaitReason

GOAL = Ending(Phase.CLOSED, Reason.GOAL)
DEADLINE = Ending(Phase.CLOSED, Reason.DEADLINE)
TOO_FEW = Ending(Phase.ABANDONED, Reason.TOO_FEW)
STOPPED = Ending(Phase.ABANDONED, Reason.STOPPED)
NOT_FINITE = Ending(Phase.ABANDONED, Reason.NOT_FINITE)
ENDINGS = [GOAL, DEADLINE, TOO_FEW, STOPPED, NOT_FINITE]
WORKING = Held("working", 1, 0)
LATE_ONES = [Late.FOLD, Late.BUFFER]


def round_of(devices=0, now=0.0, places=3, number=1, version=0, **policy):
    """A round of three places in which so many devices work since `now`."""
    terms = {"goal": 2, "minimum": 1, "deadline": 60.0} | policy
    made = Round(number, version, RoundPolicy(**terms), places, 0.0)
    for _ in range(devices):
        made = made.assigned(now)
    return made


# Places


@pytest.mark.parametrize(
    ("goal", "over_selection", "places"),
    [
        (1, 1.0, 1),
        (1, 1.01, 2),
        (1, 1.3, 2),
        (2, 1.5, 3),
        (3, 1.3, 4),
        (7, 10.0, 70),
        (8, 1.3, 11),
        (10, 1.1, 11),
        (10, 1.3, 13),
        (100, 1.1, 110),
    ],
)
def test_the_places_are_the_goal_times_over_selection_rounded_up(goal, over_selection, places):
    assert RoundPolicy(goal, 1, 60.0).places(over_selection) == places


@given(st.integers(1, 1_000_000), st.floats(1, 10))
def test_there_are_never_fewer_places_than_the_goal(goal, over_selection):
    assert RoundPolicy(goal, 1, 60.0).places(over_selection) >= goal


def test_a_new_round_selects_and_waits_for_nobody():
    new = round_of()
    assert new.phase is Phase.SELECTING
    assert new.deadline is None
    assert new.refusal(False, 1e9) is None
    assert new.due(1e9) is None


def test_a_round_reports_once_its_places_are_taken():
    assert round_of(2).phase is Phase.SELECTING
    full = round_of(3)
    assert full.phase is Phase.REPORTING
    assert full.refusal(False, 0.0) is WaitReason.ROUND_FULL


@pytest.mark.parametrize("late", [Late.REFUSE, Late.FOLD])
def test_an_update_that_counts_keeps_its_place(late):
    reporting = round_of(3, late=late).counted(WORKING, 1.0)
    assert (reporting.phase, reporting.free) == (Phase.REPORTING, 0)


def test_a_buffered_update_that_counts_makes_room_for_another_device():
    reporting = round_of(3, late=Late.BUFFER).counted(WORKING, 1.0)
    assert (reporting.phase, reporting.free) == (Phase.SELECTING, 1)


def test_a_device_that_gives_up_frees_its_place_for_another():
    selecting = round_of(3).left(WORKING)
    assert (selecting.phase, selecting.dropped) == (Phase.SELECTING, 1)
    assert selecting.assigned(1.0).phase is Phase.REPORTING


def test_a_device_of_an_earlier_round_has_no_place_in_a_folded_one():
    folded = round_of(3, number=2, version=1, late=Late.FOLD, max_staleness=1)
    assert folded.left(WORKING) == folded
    counted = folded.counted(WORKING, 1.0)
    assert (counted.working, counted.arrived) == (3, 1)


def test_a_device_serves_once_a_round():
    assert round_of(1).refusal(True, 1.0) is WaitReason.ALREADY_SERVED


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_ended_round_takes_nobody(ending):
    ended = round_of(1).ends(ending, 1.0)
    assert ended.refusal(False, 1.0) is WaitReason.ROUND_FULL
    assert ended.refusal(True, 1.0) is WaitReason.ALREADY_SERVED


def test_nobody_is_asked_once_the_deadline_has_passed():
    assert round_of(1).refusal(False, 59.9) is None
    assert round_of(1).refusal(False, 60.0) is WaitReason.ROUND_FULL


def test_who_leaves_the_fleet_was_never_there_but_that_the_clock_goes_on():
    held, other = round_of(3, now=5.0), round_of(2, now=5.0)
    assert held.forgotten(WORKING, counted=False) == other
    accepted = held.counted(WORKING, 6.0)
    assert accepted.forgotten(Held("accepted", 1, 0), counted=True) == other
    expired = held.forgotten(Held("expired", 1, 0), counted=False)
    assert expired == held


# The deadline


def test_the_first_assignment_starts_the_clock():
    assert round_of().remaining(100.0) == 60.0
    started = round_of().assigned(100.0)
    assert started.deadline == 160.0
    assert started.remaining(130.0) == 30.0
    assert started.remaining(200.0) == 0.0


def test_a_clock_that_reads_zero_at_the_start_still_runs():
    assert round_of(1, now=0.0).deadline == 60.0
    assert round_of(1, now=0.0).due(60.0) == TOO_FEW


def test_a_late_update_that_counts_starts_the_clock_too():
    folded = round_of(0, number=2, version=1, late=Late.FOLD, max_staleness=1)
    assert folded.counted(WORKING, 100.0).deadline == 160.0


def test_nothing_that_happens_moves_the_deadline():
    moved = round_of(1, now=100.0).assigned(130.0).left(WORKING).assigned(150.0)
    assert moved.counted(WORKING, 155.0).deadline == 160.0


# What an update is


def test_an_update_counts_until_just_before_the_deadline():
    awaited = round_of(1)
    assert awaited.arrival(WORKING, 0.0) is Arrival.COUNTS
    assert awaited.arrival(WORKING, 59.999) is Arrival.COUNTS
    assert awaited.arrival(WORKING, 60.0) is Arrival.LATE


@pytest.mark.parametrize("now", [1.0, 60.0, 1e9])
@pytest.mark.parametrize("late", Late)
def test_an_update_that_has_counted_is_a_duplicate_ever_after(now, late):
    accepted = Held("accepted", 1, 0)
    counted = round_of(1, late=late)
    assert counted.arrival(accepted, now) is Arrival.DUPLICATE
    assert counted.ends(GOAL, 1.0).arrival(accepted, now) is Arrival.DUPLICATE


@pytest.mark.parametrize("state", ["refused", "given_up", "expired"])
@pytest.mark.parametrize("late", Late)
def test_an_update_of_a_device_that_works_no_more_is_late(state, late):
    assert round_of(1, late=late).arrival(Held(state, 1, 0), 1.0) is Arrival.LATE


def test_an_update_after_the_end_is_late_though_the_deadline_is_far():
    assert round_of(1).ends(STOPPED, 1.0).arrival(WORKING, 1.0) is Arrival.LATE


def test_an_update_of_an_earlier_round_is_refused_where_late_ones_are():
    assert round_of(1, number=2).arrival(WORKING, 1.0) is Arrival.LATE


@pytest.mark.parametrize("late", LATE_ONES)
def test_a_late_update_counts_up_to_its_greatest_staleness(late):
    for version, arrival in [(1, Arrival.COUNTS), (2, Arrival.COUNTS), (3, Arrival.LATE)]:
        found = round_of(0, number=9, version=version, late=late, max_staleness=2)
        assert found.staleness(WORKING) == version
        assert found.arrival(WORKING, 1.0) is arrival


@pytest.mark.parametrize("late", LATE_ONES)
def test_an_update_that_comes_while_the_round_closes_waits_for_the_next(late):
    closing = round_of(1, late=late).ends(GOAL, 1.0)
    assert closing.arrival(WORKING, 1.0) is Arrival.WAIT
    assert round_of(1, late=late).arrival(WORKING, 60.0) is Arrival.WAIT


# The end


def test_the_goal_closes_a_round_at_once():
    reporting = round_of(3).counted(WORKING, 1.0)
    assert reporting.due(1.0) is None
    assert reporting.counted(WORKING, 1.0).due(1.0) == GOAL


def test_a_goal_that_was_reached_in_time_is_the_reason_even_when_noticed_late():
    assert round_of(2).counted(WORKING, 1.0).counted(WORKING, 1.0).due(1e9) == GOAL


@pytest.mark.parametrize(
    ("minimum", "updates", "ending"),
    [(1, 0, TOO_FEW), (1, 1, DEADLINE), (2, 1, TOO_FEW), (2, 2, DEADLINE), (2, 3, DEADLINE)],
)
def test_the_deadline_closes_a_round_with_the_minimum_and_abandons_it_with_fewer(
    minimum, updates, ending
):
    reporting = round_of(4, places=4, goal=4, minimum=minimum)
    for _ in range(updates):
        reporting = reporting.counted(WORKING, 1.0)
    assert reporting.due(59.9) is None
    assert reporting.due(60.0) == ending


def test_a_round_whose_devices_have_all_left_still_ends_at_its_deadline():
    left = round_of(1).left(WORKING)
    assert left.due(59.0) is None
    assert left.due(60.0) == TOO_FEW


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_ended_round_shows_its_ending_and_is_due_no_more(ending):
    ended = round_of(3).ends(ending, 7.0)
    closing = ending.phase is Phase.CLOSED
    assert ended.phase is (Phase.CLOSING if closing else Phase.ABANDONED)
    assert (ended.due(1e9), ended.ended) == (None, 7.0)


def test_the_disk_may_lose_what_had_counted():
    assert round_of(2).counted(WORKING, 1.0).lost(1).arrived == 0


# The round after


@pytest.mark.parametrize(("late", "working"), [(Late.REFUSE, 2), (Late.FOLD, 3), (Late.BUFFER, 0)])
def test_who_cannot_count_any_more_is_taken_off(late, working):
    ended = round_of(3, late=late).ends(DEADLINE, 60.0).expired(3, 1)
    assert (ended.working, ended.dropped) == (working, 1)


@pytest.mark.parametrize("late", Late)
def test_only_where_rounds_do_not_wait_for_devices_does_the_next_one_begin_with_some(late):
    following = round_of(2, late=late).ends(GOAL, 5.0).following(1, 7, 9.0)
    carried = late is Late.BUFFER
    assert (following.number, following.version, following.places) == (2, 1, 7)
    assert (following.opened, following.arrived, following.dropped) == (9.0, 0, 0)
    assert (following.working, following.started) == ((2, 9.0) if carried else (0, None))


@pytest.mark.parametrize("late", LATE_ONES)
def test_how_long_a_device_may_work_follows_from_the_greatest_staleness(late):
    policy = RoundPolicy(2, 1, 60.0, late, 3)
    assert (policy.patience, policy.longest) == (180.0, 240.0)
    refusing = RoundPolicy(2, 1, 60.0)
    assert (refusing.patience, refusing.longest) == (0.0, 60.0)
