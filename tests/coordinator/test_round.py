"""The round: each transition by itself, then any order of events against what must always hold."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coordinator.round import Arrival, Ending, Phase, Reason, Round, RoundPolicy
from wire.messages import WaitReason

POLICY = RoundPolicy(goal=2, minimum=1, deadline=60.0, over_selection=1.5)  # three places
GOAL = Ending(Phase.CLOSED, Reason.GOAL)
DEADLINE = Ending(Phase.CLOSED, Reason.DEADLINE)
TOO_FEW = Ending(Phase.ABANDONED, Reason.TOO_FEW)
STOPPED = Ending(Phase.ABANDONED, Reason.STOPPED)
NOT_FINITE = Ending(Phase.ABANDONED, Reason.NOT_FINITE)


def round_of(devices=0, now=0.0, **policy):
    """A round in which devices d0, d1, ... work on a0, a1, ... since `now`."""
    made = Round(1, RoundPolicy(**(vars(POLICY) | policy)))
    for index in range(devices):
        made.assign(f"a{index}", f"d{index}", now)
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
    assert RoundPolicy(goal, 1, 60.0, over_selection).places == places


@given(st.integers(1, 1_000_000), st.floats(1, 10))
def test_there_are_never_fewer_places_than_the_goal(goal, over_selection):
    assert RoundPolicy(goal, 1, 60.0, over_selection).places >= goal


def test_a_new_round_selects_and_waits_for_nobody():
    new = round_of()
    assert new.phase is Phase.SELECTING
    assert new.deadline is None
    assert new.refusal("d0", 1e9) is None
    assert new.due(1e9) is None


def test_a_round_reports_once_its_places_are_taken():
    assert round_of(2).phase is Phase.SELECTING
    full = round_of(3)
    assert full.phase is Phase.REPORTING
    assert full.refusal("d9", 0.0) is WaitReason.ROUND_FULL


def test_an_update_that_counts_keeps_its_place():
    reporting = round_of(3)
    reporting.count("a0")
    assert reporting.phase is Phase.REPORTING
    assert reporting.refusal("d9", 0.0) is WaitReason.ROUND_FULL


def test_a_device_that_gives_up_frees_its_place_for_another():
    selecting = round_of(3)
    assert selecting.leave("a0")
    assert selecting.phase is Phase.SELECTING
    assert selecting.refusal("d9", 0.0) is None
    selecting.assign("a9", "d9", 1.0)
    assert selecting.phase is Phase.REPORTING


def test_leaving_twice_or_from_nowhere_frees_no_place():
    held = round_of(3)
    held.count("a1")
    assert held.leave("a0")
    assert not held.leave("a0")
    assert not held.leave("a1")
    assert not held.leave("never given")
    assert held.working == {"a2": "d2"}
    assert held.arrived == {"a1": "d1"}


@pytest.mark.parametrize("became", ["working", "arrived", "left"])
def test_a_device_serves_once_a_round_whatever_became_of_it(became):
    served = round_of(1)
    if became == "arrived":
        served.count("a0")
    if became == "left":
        served.leave("a0")
    assert served.refusal("d0", 1.0) is WaitReason.ALREADY_SERVED
    assert served.held_by("d0") == ("a0" if became == "working" else None)
    assert served.device_of("a0") == "d0"


def test_nobody_holds_an_assignment_that_was_never_given():
    assert round_of(1).device_of("a1") is None
    assert round_of(1).held_by("d1") is None


@pytest.mark.parametrize("ending", [GOAL, DEADLINE, TOO_FEW, STOPPED, NOT_FINITE])
def test_an_ended_round_takes_nobody(ending):
    ended = round_of(1)
    ended.end(ending)
    assert ended.refusal("d9", 1.0) is WaitReason.ROUND_FULL
    assert ended.refusal("d0", 1.0) is WaitReason.ALREADY_SERVED


def test_nobody_is_asked_once_the_deadline_has_passed():
    assert round_of(1).refusal("d9", 59.9) is None
    assert round_of(1).refusal("d9", 60.0) is WaitReason.ROUND_FULL


@pytest.mark.parametrize("became", ["working", "counted", "left"])
def test_who_leaves_the_fleet_was_never_there_but_that_the_clock_goes_on(became):
    held = round_of(3, now=5.0)
    if became == "counted":
        held.count("a0")
    if became == "left":
        held.leave("a0")
    held.forget("d0")
    other = round_of(0)
    for index in (1, 2):
        other.assign(f"a{index}", f"d{index}", 5.0)
    assert held == other
    assert held.arrival("a0", 6.0) is Arrival.UNKNOWN
    assert held.phase is Phase.SELECTING


# The deadline


def test_the_first_assignment_starts_the_clock():
    started = round_of()
    assert started.remaining(100.0) == 60.0
    started.assign("a0", "d0", 100.0)
    assert started.deadline == 160.0
    assert started.remaining(130.0) == 30.0
    assert started.remaining(200.0) == 0.0


def test_a_clock_that_reads_zero_at_the_start_still_runs():
    assert round_of(1, now=0.0).deadline == 60.0
    assert round_of(1, now=0.0).due(60.0) == TOO_FEW


def test_nothing_that_happens_moves_the_deadline():
    moved = round_of(1, now=100.0)
    moved.assign("a1", "d1", 130.0)
    moved.leave("a0")
    moved.assign("a2", "d2", 150.0)
    moved.count("a2")
    assert moved.deadline == 160.0


# What an update is


def test_an_update_counts_until_just_before_the_deadline():
    awaited = round_of(1)
    assert awaited.arrival("a0", 0.0) is Arrival.COUNTS
    assert awaited.arrival("a0", 59.999) is Arrival.COUNTS
    assert awaited.arrival("a0", 60.0) is Arrival.LATE


def test_to_ask_what_an_update_would_be_changes_nothing():
    awaited = round_of(2)
    for now in (0.0, 60.0, 1.0):
        awaited.arrival("a0", now)
    assert awaited == round_of(2)


@pytest.mark.parametrize("now", [1.0, 60.0, 1e9])
def test_an_update_that_has_counted_is_a_duplicate_ever_after(now):
    counted = round_of(1)
    counted.count("a0")
    assert counted.arrival("a0", now) is Arrival.DUPLICATE
    counted.end(GOAL)
    assert counted.arrival("a0", now) is Arrival.DUPLICATE


def test_an_update_of_a_device_that_left_is_late():
    left = round_of(1)
    left.leave("a0")
    assert left.arrival("a0", 1.0) is Arrival.LATE


def test_an_update_after_the_end_is_late_though_the_deadline_is_far():
    ended = round_of(1)
    ended.end(STOPPED)
    assert ended.arrival("a0", 1.0) is Arrival.LATE


def test_an_update_of_another_round_is_unknown():
    assert round_of(1).arrival("a1", 1.0) is Arrival.UNKNOWN


# The end


def test_the_goal_closes_a_round_at_once():
    reporting = round_of(3)
    reporting.count("a0")
    assert reporting.due(1.0) is None
    reporting.count("a1")
    assert reporting.due(1.0) == GOAL


def test_a_goal_that_was_reached_in_time_is_the_reason_even_when_noticed_late():
    reached = round_of(2)
    reached.count("a0")
    reached.count("a1")
    assert reached.due(1e9) == GOAL


@pytest.mark.parametrize(
    ("minimum", "updates", "ending"),
    [(1, 0, TOO_FEW), (1, 1, DEADLINE), (2, 1, TOO_FEW), (2, 2, DEADLINE), (2, 3, DEADLINE)],
)
def test_the_deadline_closes_a_round_with_the_minimum_and_abandons_it_with_fewer(
    minimum, updates, ending
):
    reporting = round_of(4, goal=4, minimum=minimum)
    for index in range(updates):
        reporting.count(f"a{index}")
    assert reporting.due(59.9) is None
    assert reporting.due(60.0) == ending


def test_a_round_whose_devices_have_all_left_still_ends_at_its_deadline():
    left = round_of(1)
    left.leave("a0")
    assert left.due(59.0) is None
    assert left.due(60.0) == TOO_FEW


@pytest.mark.parametrize("ending", [GOAL, DEADLINE, TOO_FEW, STOPPED, NOT_FINITE])
def test_an_ended_round_shows_its_ending_and_is_due_no_more(ending):
    ended = round_of(3)
    ended.end(ending)
    assert ended.phase is ending.phase
    assert ended.due(1e9) is None


# The journal


def test_a_round_comes_back_from_what_the_journal_says():
    was = round_of(3)
    was.count("a0")
    was.leave("a1")
    back = Round(1, POLICY, started=was.started)
    for assignment, device, state in [
        ("a0", "d0", "accepted"),
        ("a1", "d1", "given_up"),
        ("a2", "d2", "working"),
    ]:
        back.restore(assignment, device, state)
    assert back == was


@pytest.mark.parametrize("state", ["refused", "given_up", "expired"])
def test_an_assignment_that_ended_without_an_update_comes_back_as_left(state):
    back = Round(1, POLICY, started=0.0)
    back.restore("a0", "d0", state)
    assert back.arrival("a0", 1.0) is Arrival.LATE
    assert back.refusal("d0", 1.0) is WaitReason.ALREADY_SERVED
    assert back.phase is Phase.SELECTING


# Any order of events


DEVICES = st.sampled_from([f"d{index}" for index in range(9)])


class AnyRound(RuleBasedStateMachine):
    """A coordinator that does as the round says, beside a plain book of what has happened."""

    @initialize(
        goal=st.integers(1, 4),
        minimum=st.integers(1, 4),
        over_selection=st.floats(1, 2),
        now=st.floats(-1e6, 1e6),
    )
    def begin(self, goal, minimum, over_selection, now):
        policy = RoundPolicy(goal, min(goal, minimum), 60.0, over_selection)
        self.round = Round(1, policy)
        self.now = now
        self.deadline = None
        self.ending = None
        self.journal = {}  # assignment to (device, state)
        self.counted = []
        self.given = 0

    def held(self, state):
        return [a for a, (_, s) in self.journal.items() if s == state]

    @rule(seconds=st.sampled_from([0.0, 0.5, 7.0, 29.0, 60.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(device=DEVICES)
    def a_device_checks_in(self, device):
        if self.round.refusal(device, self.now):
            return
        assert self.ending is None
        assert self.deadline is None or self.now < self.deadline
        assignment = f"a{self.given}"
        self.given += 1
        self.round.assign(assignment, device, self.now)
        self.deadline = self.round.deadline if self.deadline is None else self.deadline
        self.journal[assignment] = (device, "working")

    @rule(device=DEVICES)
    def a_device_that_forgot_its_work_asks_again(self, device):
        held = [a for a, (d, s) in self.journal.items() if (d, s) == (device, "working")]
        assert self.round.held_by(device) == (held[0] if held else None)

    @rule(number=st.integers(0, 12))
    def an_update_arrives(self, number):
        assignment = f"a{number}"
        device, state = self.journal.get(assignment, (None, None))
        arrival = self.round.arrival(assignment, self.now)
        over = self.ending is not None or (self.deadline is not None and self.now >= self.deadline)
        assert arrival is {
            None: Arrival.UNKNOWN,
            "accepted": Arrival.DUPLICATE,
            "left": Arrival.LATE,
            "working": Arrival.LATE if over else Arrival.COUNTS,
        }.get(state)
        if arrival is Arrival.COUNTS:
            self.round.count(assignment)
            self.counted.append(assignment)
            self.journal[assignment] = (device, "accepted")

    @rule(number=st.integers(0, 12))
    def a_device_gives_up(self, number):
        assignment = f"a{number}"
        device, state = self.journal.get(assignment, (None, None))
        held = state == "working" and self.round.ending is None
        assert self.round.leave(assignment) == held
        if held:
            self.journal[assignment] = (device, "left")

    @rule(device=DEVICES)
    def a_device_leaves_the_fleet(self, device):
        self.round.forget(device)
        gone = [a for a, (d, _) in self.journal.items() if d == device]
        for assignment in gone:
            del self.journal[assignment]
            assert self.round.device_of(assignment) is None
        self.counted = [a for a in self.counted if a not in gone]
        assert self.round.held_by(device) is None

    @rule(number=st.integers(0, 12))
    def the_disk_loses_an_update(self, number):
        assignment = f"a{number}"
        if assignment in self.counted and self.ending is None:
            self.round.lose(assignment)
            self.counted.remove(assignment)
            self.journal[assignment] = (self.journal[assignment][0], "left")

    @rule()
    def the_timer_looks(self):
        ending = self.round.due(self.now)
        if ending is None:
            return
        assert self.ending is None
        reached = len(self.counted) >= self.round.policy.goal
        enough = len(self.counted) >= self.round.policy.minimum
        assert ending == (GOAL if reached else DEADLINE if enough else TOO_FEW)
        assert reached or self.now >= self.deadline
        self.round.end(ending)
        self.ending = ending

    @precondition(lambda self: self.ending is None)
    @rule(ending=st.sampled_from([STOPPED, NOT_FINITE]))
    def it_is_ended_from_outside(self, ending):
        self.round.end(ending)
        self.ending = ending

    @rule()
    def the_coordinator_restarts(self):
        back = Round(1, self.round.policy, started=self.round.started, ending=self.ending)
        for assignment, (device, state) in self.journal.items():
            back.restore(assignment, device, state)
        assert back == self.round
        self.round = back

    @invariant()
    def an_update_counts_once(self):
        assert len(self.counted) == len(set(self.counted))
        assert sorted(self.round.arrived) == sorted(self.counted)

    @invariant()
    def places_are_never_exceeded(self):
        assert len(self.round.working) + len(self.round.arrived) <= self.round.policy.places

    @invariant()
    def the_deadline_never_moves(self):
        assert self.round.deadline == self.deadline

    @invariant()
    def a_device_serves_once(self):
        devices = [
            *self.round.working.values(),
            *self.round.arrived.values(),
            *self.round.left.values(),
        ]
        assert len(devices) == len(set(devices)) == len(self.journal)

    @invariant()
    def ending_is_final(self):
        assert self.round.ending == self.ending
        if self.ending:
            assert self.round.phase is self.ending.phase
            assert self.round.due(self.now + 1e6) is None

    @invariant()
    def the_phase_says_whether_there_is_a_place(self):
        if self.ending is None:
            free = len(self.held("working")) + len(self.counted) < self.round.policy.places
            assert self.round.phase is (Phase.SELECTING if free else Phase.REPORTING)


def test_in_any_order_of_events_a_round_keeps_its_promises():
    run_state_machine_as_test(
        AnyRound, settings=settings(max_examples=100, stateful_step_count=40, deadline=None)
    )
