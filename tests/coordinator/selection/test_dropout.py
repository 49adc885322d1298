"""Over-selection: bounded, led by what was seen, not misled by what was not."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.selection import EndedRound, dropout, over_selection

FIRST = st.floats(1, 10)
LIMIT = st.floats(1, 10)


@st.composite
def rounds(draw):
    arrived, dropped, unknown = (draw(st.integers(0, 10_000)) for _ in range(3))
    return EndedRound(arrived + dropped + unknown, arrived, dropped)


ENDED = st.lists(rounds(), max_size=30)


def test_the_task_file_s_word_holds_until_a_round_has_ended():
    assert over_selection(1.3, 3.0, []) == pytest.approx(1.3)
    assert over_selection(1.3, 1.2, []) == 1.2
    assert over_selection(1.0, 3.0, []) == 1.0
    assert dropout(1.25, []) == pytest.approx(0.2)


@given(FIRST, LIMIT, ENDED)
def test_it_is_from_one_to_the_limit_and_the_rate_a_share(first, limit, ended):
    assert 1.0 <= over_selection(first, limit, ended) <= limit
    assert 0.0 <= dropout(first, ended) <= 1.0


@given(FIRST, ENDED, rounds(), st.integers(1, 1000))
def test_more_drop_outs_never_make_it_ask_fewer(first, ended, last, more):
    arrived = last.arrived + more
    better = EndedRound(last.assigned + more, arrived, last.dropped)
    worse = EndedRound(last.assigned + more, last.arrived, last.dropped + more)
    assert dropout(first, [*ended, better]) <= dropout(first, [*ended, worse]) + 1e-9


@given(FIRST, ENDED)
def test_the_unknown_alone_are_no_sign_of_drop_outs(first, ended):
    ended = [EndedRound(e.assigned, e.assigned // 10, 0) for e in ended]
    assert dropout(first, ended) <= max(1 - 1 / first, 1e-9) * (1 + 1e-9) * 2
    many = [EndedRound(1000, 100, 0)] * 50
    assert dropout(first, many) < 0.1


def test_one_bad_hour_does_not_undo_what_was_learned():
    usual = [EndedRound(130, 117, 13)] * 30
    before = over_selection(1.3, 5, usual)
    outage = over_selection(1.3, 5, [*usual, EndedRound(130, 0, 130)])
    again = over_selection(1.3, 5, [*usual, EndedRound(130, 0, 130), *usual])
    assert before == pytest.approx(1 / 0.9, abs=0.12)
    assert before < outage < 1.5
    assert again == pytest.approx(before, abs=0.01)


def test_the_latest_rounds_count_most():
    bad, good = EndedRound(100, 60, 40), EndedRound(100, 100, 0)
    assert over_selection(1.3, 5, [bad] * 20 + [good] * 10) < over_selection(
        1.3, 5, [good] * 20 + [bad] * 10
    )


# A simulation


def play(rng, places, goal, silent, deadline=600.0):
    """One round: devices start within a minute, train for about a minute; it closes at its goal or
    at the deadline, and is told of as the engine tells."""
    starts = [rng.random() * 60 for _ in range(places)]
    took = [
        math.inf if rng.random() < silent else rng.lognormvariate(math.log(60), 0.5)
        for _ in range(places)
    ]
    ends = [start + time for start, time in zip(starts, took, strict=True)]
    close = min(deadline, sorted(ends)[goal - 1])
    slowest = max((t for t, end in zip(took, ends, strict=True) if end <= close), default=0.0)
    late = [close - start for start, end in zip(starts, ends, strict=True) if end > close]
    gone = sum(time >= slowest for time in late)
    return EndedRound(places, places - len(late), gone), close < deadline


def settled(goal, silent, first=1.3, played=80):
    """The mean of the factor, and how many rounds reached their goal, in the last of many."""
    rng = random.Random(1)
    ended: list[EndedRound] = []
    factors, reached = [], []
    for _ in range(played):
        factor = over_selection(first, 5.0, ended)
        seen, in_time = play(rng, math.ceil(goal * factor - 1e-9), goal, silent)
        ended.append(seen)
        factors.append(factor)
        reached.append(in_time)
    return sum(factors[30:]) / (played - 30), sum(reached[30:]) / (played - 30)


@pytest.mark.parametrize("first", [1.0, 1.3, 3.0])
def test_it_settles_near_what_thirty_in_a_hundred_silent_devices_need(first):
    factor, reached = settled(goal=200, silent=0.3, first=first)
    assert factor == pytest.approx(1 / 0.7, abs=0.06)
    assert reached >= 0.6


def test_a_small_round_gets_room_for_bad_luck():
    factor, reached = settled(goal=7, silent=0.3)
    assert 1 / 0.7 < factor < 2.0
    assert reached > 0.75


def test_a_faithful_fleet_is_not_asked_in_vain():
    factor, reached = settled(goal=200, silent=0.0)
    assert factor < 1.1
    assert reached > 0.95
