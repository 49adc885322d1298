"""Whole fleets in virtual time, and the referee that watches them."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.aggregation import RunningSum
from coordinator.round import Arrival, Ending, Phase, Reason, Round, RoundPolicy
from fleet.virtual import (
    DUPLICATE,
    FLAPPING,
    HONEST,
    LATE,
    LYING,
    SILENT,
    SLOW,
    Behaviour,
    InvariantBroken,
    Record,
    Simulation,
)
from schedules.pacing import CHECK_INS_PER_SECOND
from wire.messages import WaitReason

POLICY = RoundPolicy(goal=10, minimum=5, deadline=600, over_selection=1.5)
EVERY = {HONEST: 8, SLOW: 8, SILENT: 8, FLAPPING: 8, LATE: 8, DUPLICATE: 8, LYING: 8}
SOME = {HONEST: 9, SLOW: 2, LATE: 3, DUPLICATE: 3, LYING: 2, FLAPPING: 2}


def played(devices, *, policy=POLICY, rounds=3, **settings) -> Record:
    return Simulation(policy=policy, devices=devices, rounds=rounds, **settings).run()


def endings(record):
    return {(r.phase, r.reason) for r in record.rounds}


# Large


def test_twenty_rounds_of_five_thousand_devices_take_seconds():
    policy = RoundPolicy(goal=400, minimum=200, deadline=600, over_selection=1.3)
    share = {SLOW: 1000, SILENT: 250, FLAPPING: 250, LATE: 200, DUPLICATE: 150, LYING: 150}
    began = time.perf_counter()
    record = played({HONEST: 3000, **share}, policy=policy, rounds=20, seed=1)
    assert time.perf_counter() - began < 30  # some 3 s; a busy machine gets time
    assert [r.number for r in record.rounds] == list(range(1, 21))
    assert all(200 <= len(r.counted) <= 400 and r.places <= 520 for r in record.rounds)
    assert all(r.late and r.duplicates and r.refused for r in record.rounds)
    assert record.complete


# Each behaviour alone


def test_honest_devices_reach_the_goal_before_the_deadline():
    record = played({HONEST: 100})
    assert endings(record) == {(Phase.CLOSED, Reason.GOAL)}
    for r in record.rounds:
        assert len(set(r.counted)) == 10
        assert r.places == 15
        assert r.ended - r.started < 200
        assert (r.duplicates, r.refused, r.given_up) == (0, 0, 0)


def test_slow_devices_are_not_waited_for_beyond_the_deadline():
    tail = Behaviour(training=900, spread=2.0)
    record = played({tail: 15}, rounds=20)
    assert (Phase.CLOSED, Reason.DEADLINE) in endings(record)
    for r in record.rounds:
        assert r.ended - r.started <= 600 + 1e-6
        assert (r.phase is Phase.CLOSED) == (len(r.counted) >= 5)


def test_silent_devices_abandon_the_round_at_its_deadline():
    record = played({SILENT: 100})
    assert endings(record) == {(Phase.ABANDONED, Reason.TOO_FEW)}
    assert all(r.ended == r.started + 600 and not r.counted for r in record.rounds)


def test_a_silent_device_is_given_its_own_assignment_when_it_comes_back():
    forgetful = Behaviour(vanishes=0.8, away=20)
    record = played({forgetful: 15})
    assert endings(record) == {(Phase.CLOSED, Reason.GOAL)}


def test_when_all_are_gone_for_good_no_empty_round_is_made():
    gone = Behaviour(vanishes=1.0, away=math.inf)
    record = played({gone: 15}, rounds=5)
    assert [r.reason for r in record.rounds] == [Reason.TOO_FEW]
    assert record.complete


def test_places_of_flapping_devices_that_give_up_go_to_others():
    record = played({FLAPPING: 60})
    assert endings(record) == {(Phase.CLOSED, Reason.GOAL)}
    assert sum(r.given_up for r in record.rounds) > 0


def test_late_updates_never_count():
    record = played({LATE: 100})
    assert endings(record) == {(Phase.ABANDONED, Reason.TOO_FEW)}
    assert [r.late for r in record.rounds] == [15, 15, 15]


def test_late_updates_of_a_round_that_reached_its_goal_do_not_count_in_the_next():
    record = played({HONEST: 80, LATE: 40}, rounds=10)
    assert (Phase.CLOSED, Reason.GOAL) in endings(record)
    assert sum(r.late for r in record.rounds) > 10
    late = {f"d{n}" for n in range(80, 120)}
    assert not any(late & set(r.counted) for r in record.rounds)


def test_what_arrives_twice_counts_once():
    record = played({Behaviour(repeats=2): 30}, rounds=5)
    assert endings(record) == {(Phase.CLOSED, Reason.GOAL)}
    assert all(len(set(r.counted)) == len(r.counted) == 10 for r in record.rounds)
    assert all(r.duplicates == 20 for r in record.rounds)


def test_lies_are_refused_and_their_places_go_to_others():
    record = played({LYING: 40})
    assert endings(record) == {(Phase.ABANDONED, Reason.TOO_FEW)}
    assert all(r.refused > 15 and not r.counted for r in record.rounds)


def test_bad_behaviour_is_described_with_what_is_allowed():
    with pytest.raises(ValueError, match="chances from 0 to 1"):
        Behaviour(lies=2)
    with pytest.raises(ValueError, match="seconds above 0"):
        Behaviour(training=0)
    with pytest.raises(ValueError, match="0 or more"):
        Behaviour(repeats=-1)


# Pacing


def test_a_small_population_meets():
    record = played({HONEST: 15}, rounds=10, check_in=60, starting=60)
    for r in record.rounds:
        assert r.filled is not None
        assert r.filled - r.started <= 1.5 * 60 + 5  # the widest window, and a message's time


def test_a_large_population_spreads():
    few = replace(POLICY, deadline=1200)
    crowd = played({SILENT: 100, HONEST: 20_000}, policy=few, rounds=12, check_in=10, starting=200)
    end = crowd.rounds[-1].ended
    assert end > 500
    assert crowd.rate(300, end) <= 1.05 * CHECK_INS_PER_SECOND
    assert crowd.busiest(since=300) <= 1.6 * CHECK_INS_PER_SECOND


def test_a_population_that_started_at_once_does_not_stay_together():
    crowd = played({HONEST: 10_000}, rounds=6, check_in=10, starting=1)
    assert crowd.busiest() > 5_000
    assert crowd.busiest(since=10) <= 3 * CHECK_INS_PER_SECOND


# Repeatable


def test_the_same_seed_gives_the_same_record_and_another_one_another():
    one, same, other = (played(EVERY, seed=seed) for seed in (7, 7, 8))
    assert one == same
    assert one != other


def test_a_limit_cuts_the_simulation_short():
    record = played({HONEST: 30}, rounds=1000, limit=1000)
    assert not record.complete
    assert 0 < len(record.rounds) < 1000
    assert record.seconds <= 1000


# Mixtures

BEHAVIOURS = st.one_of(
    st.sampled_from(list(EVERY)),
    st.builds(
        Behaviour,
        training=st.floats(0.1, 500),
        spread=st.floats(0, 2),
        network=st.floats(0.001, 30),
        vanishes=st.floats(0, 1),
        away=st.floats(1, 1000) | st.just(math.inf),
        up=st.floats(10, 1000),
        down=st.just(0.0) | st.floats(1, 200),
        gives_up=st.floats(0, 1),
        late_by=st.just(0.0) | st.floats(0.001, 500),
        repeats=st.integers(0, 3),
        lies=st.floats(0, 1),
    ),
)
POLICIES = st.integers(1, 8).flatmap(
    lambda goal: st.builds(
        RoundPolicy,
        goal=st.just(goal),
        minimum=st.integers(1, goal),
        deadline=st.floats(1, 1000),
        over_selection=st.floats(1, 3),
    )
)


@given(
    policy=POLICIES,
    devices=st.dictionaries(BEHAVIOURS, st.integers(1, 8), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 32),
    check_in=st.floats(0.5, 300),
)
def test_any_mixture_keeps_the_rules(policy, devices, seed, check_in):
    record = played(devices, policy=policy, rounds=4, seed=seed, check_in=check_in, limit=100_000)
    for r in record.rounds:
        assert r.ended - r.started <= policy.deadline + 1e-6
        assert r.places <= policy.places
        assert len(r.counted) <= policy.goal
        assert (r.phase is Phase.CLOSED) == (len(r.counted) >= policy.minimum)


# The referee catches what is wrong


class CountsTwice(Round):
    def arrival(self, assignment, now):
        found = super().arrival(assignment, now)
        return Arrival.COUNTS if found is Arrival.DUPLICATE else found

    def count(self, assignment):
        if assignment not in self.arrived:
            super().count(assignment)


class CountsStrangers(Round):
    def arrival(self, assignment, now):
        found = super().arrival(assignment, now)
        return Arrival.COUNTS if found is Arrival.UNKNOWN else found


class CountsAfterTheEnd(Round):
    def arrival(self, assignment, now):
        found = super().arrival(assignment, now)
        return Arrival.COUNTS if assignment in self.working else found


class TakesNothing(Round):
    def arrival(self, assignment, now):
        return Arrival.LATE


class ForgetsWhatCounted(Round):
    def count(self, assignment):
        super().count(assignment)
        if len(self.arrived) == 3:
            self.arrived.popitem()


class WaitsForTheGoal(Round):
    def due(self, now):
        found = super().due(now)
        return found if found and found.reason is Reason.GOAL else None


class MovesItsDeadline(Round):
    def count(self, assignment):
        super().count(assignment)
        assert self.started is not None
        self.started += 30


class GoesOnAfterTheGoal(Round):
    def due(self, now):
        found = super().due(now)
        return None if found and found.reason is Reason.GOAL else found


class EndsEarly(Round):
    def due(self, now):
        early = len(self.arrived) >= self.policy.minimum and self.ending is None
        return Ending(Phase.CLOSED, Reason.GOAL) if early else super().due(now)


class ClosesWithTooFew(Round):
    def due(self, now):
        found = super().due(now)
        few = found and found.reason is Reason.TOO_FEW
        return Ending(Phase.CLOSED, Reason.DEADLINE) if few else found


class TakesEverybody(Round):
    def refusal(self, device, now):
        found = super().refusal(device, now)
        return None if found is WaitReason.ROUND_FULL else found


class ServesTwice(Round):
    def refusal(self, device, now):
        self._served.pop(device, None)
        return super().refusal(device, now)


class OneAtATime(Round):
    def refusal(self, device, now):
        return super().refusal(device, now) or (WaitReason.ROUND_FULL if self.working else None)


class KeepsThePlaceOfTheGone(Round):
    def leave(self, assignment):
        known = assignment in self.working
        if known:
            self.left[assignment] = self.working[assignment]
        return known


class NeverEnds(Round):
    deadline = None

    def remaining(self, now):
        return self.policy.deadline


@pytest.mark.parametrize(
    ("broken", "devices", "story"),
    [
        (CountsTwice, SOME, "counts twice"),
        (CountsStrangers, SOME, "counts without a place in it"),
        (CountsAfterTheEnd, SOME, "an update counted after the end"),
        (TakesNothing, SOME, "came in time and for the first time, but is called late"),
        (ForgetsWhatCounted, SOME, "its own count of devices is wrong"),
        (WaitsForTheGoal, {SILENT: 10, HONEST: 3}, "it goes on after its deadline"),
        (MovesItsDeadline, {SILENT: 10, HONEST: 6}, "it goes on after its deadline"),
        (GoesOnAfterTheGoal, SOME, "it has its goal and goes on"),
        (EndsEarly, SOME, r"it ended as closed \(goal\)"),
        (ClosesWithTooFew, {LYING: 15}, r"it ended as closed \(deadline\)"),
        (TakesEverybody, SOME, "15 places were taken when one more was given"),
        (ServesTwice, {LYING: 5, SILENT: 3}, "serves twice in it"),
        (OneAtATime, SOME, "got none of its free places"),
        (KeepsThePlaceOfTheGone, {LYING: 15}, "its own count of devices is wrong"),
        (NeverEnds, {Behaviour(vanishes=1.0): 3}, "it was never ended"),
    ],
)
def test_a_broken_round_is_caught_with_its_story(broken, devices, story):
    with pytest.raises(InvariantBroken, match=story) as caught:
        played(devices, rounds=10, make_round=broken)
    text = str(caught.value)
    assert text.startswith("round ")
    assert "policy: RoundPolicy(goal=10" in text
    assert " to d" in text or " counts" in text


def test_a_wrong_sum_is_caught(monkeypatch):
    def apply(self, base):
        return {"w": np.array([0.5], np.float32)}

    monkeypatch.setattr(RunningSum, "apply", apply)
    with pytest.raises(InvariantBroken, match=r"its mean is 0\.5, not"):
        played(SOME)


def test_an_honest_round_is_never_accused():
    for seed in range(20):
        played(EVERY, seed=seed, rounds=2)
