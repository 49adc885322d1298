"""What a keeper of rounds does next, in a time that is only said."""

from dataclasses import replace

import pytest

from coordinator.keeping import LOOK_SECONDS, Act, Own, next_step
from coordinator.round import Ending, Phase, Reason, Round, RoundPolicy

OPEN = Round(3, 2, RoundPolicy(goal=10, minimum=5, deadline=60.0), places=13, opened=100.0)
BEGUN = replace(OPEN, working=4, started=100.0)
CLOSING = BEGUN.ends(Ending(Phase.CLOSED, Reason.DEADLINE), 160.0)


def test_a_round_without_a_deadline_is_looked_at_now_and_then():
    assert next_step(OPEN, Own(), True, now=1e6, clock=0.0) == ((), 1e6 + LOOK_SECONDS)


def test_it_waits_for_the_deadline_and_not_beyond():
    step = next_step(BEGUN, Own(), True, now=158.0, clock=0.0)
    assert step == ((), 160.0)
    assert step.seconds(158.5) == 1.5  # what it has done meanwhile took its time
    assert step.seconds(160.5) == 0.0
    assert step.seconds(-1e9) == LOOK_SECONDS  # a clock that was put back holds nobody up


@pytest.mark.parametrize("arrived", [0, 5, 9])
def test_the_deadline_ends_it_whatever_has_arrived(arrived: int):
    found = replace(BEGUN, arrived=arrived)
    assert Act.END not in next_step(found, Own(), True, 159.9, 0.0).acts
    assert next_step(found, Own(), True, 160.0, 0.0).acts == (Act.END,)


def test_the_goal_ends_it_at_once():
    assert next_step(replace(BEGUN, arrived=10), Own(), True, 101.0, 0.0).acts == (Act.END,)


def test_only_sums_of_what_has_arrived_are_adopted():
    some = replace(BEGUN, arrived=1)
    assert next_step(some, Own(), True, 101.0, 0.0) == ((Act.ADOPT,), 160.0)
    assert next_step(some, Own(), False, 101.0, 0.0).acts == ()
    assert next_step(BEGUN, Own(), True, 101.0, 0.0).acts == ()


def test_while_it_closes_it_is_taken_over_or_else_helped_with_once():
    step = next_step(CLOSING, Own(), True, 161.0, 0.0)
    assert step == ((Act.TAKE_OVER, Act.HAND_OVER), 162.0)
    handed = Own().handed_over(CLOSING.number)
    assert next_step(CLOSING, handed, True, 161.0, 0.0).acts == (Act.TAKE_OVER,)
    after = replace(CLOSING, number=4)
    assert Act.HAND_OVER in next_step(after, handed, True, 161.0, 0.0).acts


def test_who_could_not_close_it_leaves_it_to_others_for_longer_each_time():
    own, clock, waits = Own(), 1000.0, []
    for _ in range(9):
        own = own.failed(clock)
        assert next_step(CLOSING, own, True, 161.0, clock).acts == (Act.HAND_OVER,)
        waits.append(own.not_before - clock)
        clock = own.not_before
        assert Act.TAKE_OVER in next_step(CLOSING, own, True, 161.0, clock).acts
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (1.0, 60.0)
    assert own.closed().failed(clock).not_before == clock + 1.0


@pytest.mark.parametrize("phase", [Phase.CLOSED, Phase.ABANDONED])
def test_what_is_over_is_left_alone(phase: Phase):
    over = replace(BEGUN.ends(Ending(phase, Reason.STOPPED), 120.0), published=True)
    assert next_step(over, Own(), True, 121.0, 0.0).acts == ()
