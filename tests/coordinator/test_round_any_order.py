"""Rounds one after the other, in any order of events, against sets of what must be."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from coordinator.round import Arrival, Ending, Held, Late, Phase, Reason, Round, RoundPolicy
from wire.messages import WaitReason

ANY = st.integers(0, 7)
DEVICES = st.integers(0, 5)


class AnyRounds(RuleBasedStateMachine):
    """A coordinator that does as the round says, beside plain sets of assignments. Each is its
    device, the round and version in which it was given: `working`, `counted` in this round, `gone`
    (counted before, left, or expired)."""

    @initialize(
        goal=st.integers(1, 4),
        minimum=st.integers(1, 4),
        places=st.integers(1, 6),
        late=st.sampled_from(Late),
        staleness=st.integers(1, 2),
    )
    def begin(self, goal, minimum, places, late, staleness):
        staleness = 0 if late is Late.REFUSE else staleness
        self.policy = RoundPolicy(goal, min(goal, minimum), 60.0, late, staleness)
        self.places = max(goal, places)
        self.round = Round(1, 0, self.policy, self.places, 0.0)
        self.number, self.version, self.now = 1, 0, 0.0
        self.working, self.counted, self.gone = set(), set(), set()
        self.served, self.dropped = set(), 0
        self.deadline, self.ending = None, None

    @property
    def buffers(self):
        return self.policy.late is Late.BUFFER

    def here(self):
        return {w for w in self.working if self.buffers or w[1] == self.number}

    def taken(self):
        return len(self.here()) + (0 if self.buffers else len(self.counted))

    def pick(self, which):
        found = sorted(self.working | self.counted | self.gone)
        return found[which % len(found)] if found else None

    def held(self, assignment):
        known = {True: "working"}.get(assignment in self.working)
        state = known or ("accepted" if assignment in self.counted else "expired")
        return Held(state, assignment[1], assignment[2])

    def over(self):
        return bool(self.ending) or (self.deadline is not None and self.now >= self.deadline)

    def refused(self, own):
        return self.policy.late is Late.REFUSE and (self.over() or not own)

    def starts(self):
        if self.deadline is None:
            self.deadline = self.now + 60.0

    @rule(seconds=st.sampled_from([0.0, 1.0, 20.0, 60.0]), asking=st.lists(DEVICES, max_size=4))
    def devices_ask(self, seconds, asking):
        self.now += seconds
        for device in asking:
            refusal = self.round.refusal(device in self.served, self.now)
            if device in self.served:
                assert refusal is WaitReason.ALREADY_SERVED
            elif self.over() or self.taken() >= self.places:
                assert refusal is WaitReason.ROUND_FULL
            else:
                assert refusal is None
                self.starts()
                self.served.add(device)
                self.working.add((device, self.number, self.version))
                self.round = self.round.assigned(self.now)

    @rule(seconds=st.sampled_from([0.0, 1.0, 20.0, 60.0]), which=ANY)
    def an_update_arrives(self, seconds, which):
        self.now += seconds
        assignment = self.pick(which)
        if assignment is None:
            return
        held = self.held(assignment)
        arrival = self.round.arrival(held, self.now)
        stale, own = self.version - assignment[2], assignment[1] == self.number
        if assignment in self.counted:
            assert arrival is Arrival.DUPLICATE
        elif assignment in self.gone or stale > self.policy.max_staleness or self.refused(own):
            assert arrival is Arrival.LATE
        elif self.over():
            assert arrival is Arrival.WAIT
        else:
            assert arrival is Arrival.COUNTS
            assert self.round.staleness(held) == stale
            self.starts()
            self.round = self.round.counted(held, self.now)
            self.working.discard(assignment)
            self.counted.add(assignment)

    @rule(which=ANY, leaves_the_fleet=st.booleans())
    def a_device_leaves(self, which, leaves_the_fleet):
        assignment = self.pick(which)
        if assignment not in self.working or self.ending:
            return
        held, own = self.held(assignment), assignment in self.here()
        if leaves_the_fleet:
            self.round = self.round.forgotten(held, counted=False)
        else:
            self.round = self.round.left(held)
            self.dropped += own
        self.working.discard(assignment)
        self.gone.add(assignment)

    @rule(stops=st.sampled_from([False] * 9 + [True]))
    def the_timer_looks(self, stops):
        due = self.round.due(self.now)
        if self.ending:
            assert due is None
            return
        if len(self.counted) >= self.policy.goal:
            assert due == Ending(Phase.CLOSED, Reason.GOAL)
        elif not self.over():
            assert due is None
        elif len(self.counted) >= self.policy.minimum:
            assert due == Ending(Phase.CLOSED, Reason.DEADLINE)
        else:
            assert due == Ending(Phase.ABANDONED, Reason.TOO_FEW)
        self.ending = Ending(Phase.ABANDONED, Reason.STOPPED) if stops else due
        if self.ending:
            self.round = self.round.ends(self.ending, self.now)

    @rule(seconds=st.sampled_from([0.0, 5.0]), places=st.integers(0, 3))
    def the_next_round_begins(self, seconds, places):
        if not self.ending:
            return
        self.now += seconds
        self.version += self.ending.phase is Phase.CLOSED
        oldest = self.version - self.policy.max_staleness
        gone = {w for w in self.working if self.policy.late is Late.REFUSE or w[2] < oldest}
        self.round = self.round.expired(len(gone), 0)
        self.working -= gone
        self.gone |= gone | self.counted
        self.counted, self.served, self.dropped, self.ending = set(), set(), 0, None
        self.number, self.places = self.number + 1, self.policy.goal + places
        self.round = self.round.following(self.version, self.places, self.now)
        carried = self.buffers and self.working
        self.deadline = self.now + 60.0 if carried else None

    @invariant()
    def its_counts_are_those_of_the_sets(self):
        found = self.round
        assert (found.number, found.version, found.places) == (
            *(self.number, self.version, self.places),
        )
        assert (found.working, found.arrived, found.dropped) == (
            *(len(self.here()), len(self.counted), self.dropped),
        )

    @invariant()
    def its_phase_says_whether_there_is_a_place(self):
        phase = Phase.SELECTING if self.taken() < self.places else Phase.REPORTING
        if self.ending:
            closing = self.ending.phase is Phase.CLOSED
            phase = Phase.CLOSING if closing else Phase.ABANDONED
        assert self.round.phase is phase

    @invariant()
    def the_deadline_never_moves(self):
        assert self.round.deadline == self.deadline
        assert self.round.ending == self.ending


def test_in_any_order_of_events_rounds_keep_their_promises():
    run_state_machine_as_test(
        AnyRounds, settings=settings(max_examples=150, stateful_step_count=40, deadline=None)
    )
