"""The transactions of rounds and devices in any order, against a plain book of what must be."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coordinator.errors import Unavailable
from coordinator.round import Arrival, Late, Phase, Reason, Round, RoundPolicy
from coordinator.store import assignments, devices, ending, handing, rounds, sums, tasks
from coordinator.store.assignments import Arrived
from coordinator.store.ending import Closing
from coordinator.store.records import DeviceRecord, ModelRecord, TaskRecord
from coordinator.store.rounds import Terms
from coordinator.store.sums import Portion, tag
from tests.coordinator.store.book import Paper, Sheet
from tests.coordinator.store.memory import MemoryStore
from wire.messages import Facts, WaitReason

NAMES = ("a", "b")
NODES = ("n1", "n2", "n3")
FACTS = Facts(agent="", machine="", system="", python="", runtime="", cores=1, memory_bytes=1)
TASKS, NODE = st.sampled_from(NAMES), st.sampled_from(NODES)
DEVICES = st.integers(0, 5).map(lambda number: f"d{number}")
ANY = st.integers(0, 11)
"""Which assignment: counted back from the newest, round and round."""


@st.composite
def policies(draw):
    goal, late = draw(st.integers(1, 3)), draw(st.sampled_from(Late))
    staleness = 0 if late is Late.REFUSE else draw(st.integers(1, 2))
    return RoundPolicy(goal, draw(st.integers(1, goal)), 60.0, late, staleness)


class AnyOrder(RuleBasedStateMachine):
    """Several processes over one store, some of which die, on a fleet of six devices."""

    def __init__(self):
        super().__init__()
        self.store = MemoryStore()
        self.now = 1000.0
        self.sheets: dict[str, Sheet] = {}
        self.papers: dict[str, Paper] = {}
        self.terms: dict[str, Terms] = {}
        self.fleet: set[str] = set()
        self.given = 0

    def teardown(self):
        self.store.close()

    @initialize(
        policies=st.tuples(policies(), policies()),
        over=st.sampled_from([1.0, 1.5, 2.0]),
        ends=st.sampled_from([0, 2, 4]),
    )
    def the_tasks_are_made(self, policies, over, ends):
        self.store.run(devices.add_token, "token", "", 1000, 1e9)
        for number in range(6):
            self.joins(f"d{number}")
        for name, policy in zip(NAMES, policies, strict=True):
            self.terms[name] = Terms(name, policy, over, 3.0, ends)
            first = Round(1, 0, policy, policy.places(over), self.now)
            made = TaskRecord(name=name, state="running", definition="", plan="", created=0.0)
            assert self.store.run(tasks.create, made, "m0", first)
            self.sheets[name] = Sheet(policy, first.places, opened=self.now)

    def joins(self, device):
        record = DeviceRecord(
            id=device, name="", secret="", labels={}, facts=FACTS, enrolled=0.0, seen=0.0
        )
        assert self.store.run(devices.enroll, record, "token")
        self.fleet.add(device)

    def pick(self, number, task=None, state=None):
        """Some assignment's id; "gone" when there is none."""
        found = [
            identifier
            for identifier, paper in self.papers.items()
            if task in (None, paper.task) and state in (None, paper.state)
        ]
        return found[-1 - number % len(found)] if found else "gone"

    def of(self, task, state):
        return [p for p in self.papers.values() if (p.task, p.state) == (task, state)]

    def counting(self, task):
        number = self.sheets[task].number
        return {i: p for i, p in self.papers.items() if (p.task, p.counted) == (task, number)}

    # What happens

    @rule(
        task=TASKS,
        seconds=st.sampled_from([0.0, 0.5, 1.0, 10.0, 59.0, 60.0, 200.0]),
        asking=st.lists(DEVICES, max_size=4),
        arriving=st.lists(ANY, max_size=3),
        fresh=st.booleans(),
        node=NODE,
        looks=st.booleans(),
        makes=st.booleans(),
    )
    def life_goes_on(self, task, seconds, asking, arriving, fresh, node, looks, makes):
        """Time passes, devices ask, updates arrive, a process looks whether the round ends, one
        makes the model."""
        self.now += seconds
        for device in asking:
            if device in self.fleet:
                self.asks(task, device)
        if arriving:
            self.arrive(task, node, arriving, fresh)
        if looks:
            self.looks(task, node)
        if makes and self.closing(task):
            self.makes(task, self.sheets[task].closer, "model", 0)

    def asks(self, task, device):
        sheet, self.given = self.sheets[task], self.given + 1
        identifier = f"{task}-{self.given}"
        busy = any((p.device, p.state) == (device, "working") for p in self.papers.values())
        free = self.taken(task) < sheet.places and not sheet.over(self.now) and sheet.running
        made = self.store.run(assignments.assign, self.terms[task], identifier, device, 7, self.now)
        if device in sheet.served:
            assert made is WaitReason.ALREADY_SERVED
        elif not free:
            assert made is WaitReason.ROUND_FULL
        elif busy:
            assert made is WaitReason.ALREADY_SERVED
        else:
            row, after = made
            assert (row.round, row.version, row.state) == (sheet.number, sheet.version, "working")
            self.starts(sheet)
            assert after.started == sheet.started
            sheet.served.add(device)
            self.papers[identifier] = Paper(task, device, sheet.number, sheet.version, self.now)

    def starts(self, sheet):
        if sheet.started is None:
            sheet.started = self.now
            assert rounds.ROUNDS in self.store.told

    def taken(self, task):
        sheet = self.sheets[task]
        working = sum(sheet.has_place(p) for p in self.papers.values() if p.task == task)
        return working + (0 if sheet.policy.late is Late.BUFFER else sheet.arrived)

    def arrive(self, task, node, which, fresh):
        sheet = self.sheets[task]
        names = [self.pick(n, task, "working" if fresh else None) for n in which]
        batch = [Arrived(name, name.encode(), "sha", 5 + n, 1, 0.5) for n, name in enumerate(names)]
        accepted = self.store.run(assignments.accept, self.terms[task], batch, node, self.now)
        for update, (arrival, staleness) in zip(batch, accepted.arrivals, strict=True):
            paper = self.papers.get(update.assignment)
            assert arrival is sheet.arrival(paper, self.now)
            if arrival is not Arrival.COUNTS:
                continue
            assert staleness == sheet.version - paper.version
            self.starts(sheet)
            paper.state, paper.counted, paper.node = "accepted", sheet.number, node
            paper.arrived, paper.examples = self.now, update.examples
            sheet.arrived += 1
        assert accepted.round.arrived == sheet.arrived

    @rule(which=ANY, state=st.sampled_from(["given_up", "refused"]), fresh=st.booleans())
    def a_device_will_not_deliver(self, which, state, fresh):
        identifier = self.pick(which, state="working" if fresh else None)
        paper = self.papers.get(identifier)
        terms = self.terms[paper.task if paper else "a"]
        at_work = paper is not None and paper.state == "working"
        found = self.store.run(assignments.drop, terms, identifier, state, "", "", self.now)
        if not at_work:
            assert found is None
            return
        sheet = self.sheets[paper.task]
        sheet.dropped += sheet.has_place(paper)
        paper.state = state
        assert (found.number, found.dropped) == (sheet.number, sheet.dropped)

    # The end

    def looks(self, task, node):
        sheet = self.sheets[task]
        due = sheet.due(self.now)
        found = self.store.run(ending.begin_close, self.terms[task], node, self.now)
        if not due:
            assert found is None
            return
        sheet.ending, sheet.closer, sheet.ended = due, node, self.now
        if due == "too_few":
            assert isinstance(found, Round)
            assert found.phase is Phase.ABANDONED
            self.concludes(task)
        else:
            assert isinstance(found, Closing)
            assert (found.round.phase, found.model.version) == (Phase.CLOSING, sheet.version)

    @precondition(lambda self: self.now > 1300)
    @rule(task=TASKS, node=NODE, sure=st.integers(0, 4))
    def a_task_is_stopped(self, task, node, sure):
        sheet = self.sheets[task]
        if sure:  # it is seldom: else there would be little else to see
            return
        closing = bool(sheet.ending)
        found = self.store.run(ending.begin_close, self.terms[task], node, self.now, stopped=True)
        assert (found is None) == closing
        if not closing:
            sheet.ending, sheet.closer, sheet.ended = "stopped", node, self.now
            self.concludes(task)

    @precondition(lambda self: any(map(self.closing, self.sheets)))
    @rule(task=TASKS, node=NODE, dead=st.booleans())
    def another_process_takes_over(self, task, node, dead):
        sheet = self.sheets[task]
        alive = {*NODES} - ({sheet.closer} if dead else set())
        found = self.store.run(ending.take_over, self.terms[task], node, alive)
        if not (self.closing(task) and dead):
            assert found is None
            return
        sheet.closer = node
        assert (found.round.number, found.round.arrived) == (sheet.number, sheet.arrived)

    @precondition(lambda self: any(map(self.closing, self.sheets)))
    @rule(task=TASKS, node=NODE)
    def a_process_cannot_close(self, task, node):
        sheet = self.sheets[task]
        mine = self.closing(task) and sheet.closer == node
        assert self.store.run(handing.hand_back, task, sheet.number, node, "full") == mine
        if mine:
            sheet.closer = None
            assert self.store.run(handing.trouble, task, sheet.number).reason == "full"

    def closing(self, task):
        sheet = self.sheets[task]
        return sheet.running and bool(sheet.ending)

    @precondition(lambda self: any(map(self.closing, self.sheets)))
    @rule(
        task=st.integers(0, 1),
        node=st.sampled_from([None, None, None, *NODES]),
        made=st.sampled_from(["model", "model", Reason.NOT_FINITE, Reason.NOT_COMBINED]),
        lost=st.integers(0, 1),
    )
    def a_process_has_made_the_model(self, task, node, made, lost):
        closing = list(filter(self.closing, NAMES))
        task = closing[task % len(closing)]
        self.makes(task, node or self.sheets[task].closer, made, lost)

    def makes(self, task, node, made, lost):
        sheet = self.sheets[task]
        counting = sorted(self.counting(task))
        gone = dict.fromkeys(counting[:lost], "its bytes are gone")
        before = self.store.run(rounds.load, self.terms[task])
        if made == "model":
            version = sheet.version + 1
            made = ModelRecord(task=task, version=version, digest=f"m{version}", created=self.now)
        found = self.store.run(
            ending.finish_close, self.terms[task], node, before, made, 3, gone, self.now
        )
        if node != sheet.closer:
            assert found is None
            return
        for identifier in gone:
            self.papers[identifier].state, self.papers[identifier].counted = "refused", None
        sheet.arrived -= len(gone)
        if isinstance(made, Reason):
            sheet.ending = str(made)
        else:
            sheet.version += 1
        self.concludes(task)

    def long_enough(self, task):
        """Who was given a place before that has had as much time as the slowest that counts: until
        the last of these at a goal, else until the deadline, however late that was seen."""
        sheet, there = self.sheets[task], self.counting(task).values()
        over = sheet.ended
        if sheet.started is not None:
            over = min(over, sheet.started + sheet.policy.deadline)
        if not there:
            return over - sheet.policy.deadline
        slowest = max(p.arrived - p.since for p in there)
        return (max(p.arrived for p in there) if sheet.ending == "goal" else over) - slowest

    def concludes(self, task):
        """The round is over: the next one begins, or none."""
        sheet, terms = self.sheets[task], self.terms[task]
        done = terms.rounds and sheet.version >= terms.rounds
        sheet.running = sheet.ending != "stopped" and not done
        before = self.long_enough(task)
        held = sum(map(sheet.has_place, self.of(task, "working")))
        gone = [p for p in self.of(task, "working") if sheet.in_vain(p, sheet.ended)]
        failed = sum(p.since <= before for p in gone)
        for paper in gone:
            paper.state = "expired"
        row = self.row(task, sheet.number)
        assert (row["arrived"], row["dropped"]) == (sheet.arrived, sheet.dropped + failed)
        left = {Late.REFUSE: held - failed, Late.FOLD: held}
        left[Late.BUFFER] = len(self.of(task, "working"))
        assert row["working"] == left[sheet.policy.late]
        assert row["reason"] == sheet.ending
        if not sheet.running:
            return
        following = self.row(task, sheet.number + 1)
        self.sheets[task] = Sheet(
            sheet.policy,
            following["places"],
            number=sheet.number + 1,
            version=sheet.version,
            opened=self.now,
            started=self.now if sheet.policy.late is Late.BUFFER and left[Late.BUFFER] else None,
        )

    # Sums

    @precondition(lambda self: any(map(self.closing, self.sheets)))
    @rule(task=TASKS, node=NODE, right=st.booleans())
    def a_process_hands_over_its_sum(self, task, node, right):
        number = self.sheets[task].number
        parts = {p.node: p for p in self.store.run(sums.portions, task, number)}
        part = parts.get(node, Portion(node, 0, 0))
        tags = part.tags if right else part.tags + 1
        put = self.store.run(sums.put_partial, task, number, node, tags, b"sum")
        assert put == self.closing(task)
        if put:
            found = self.store.run(sums.partial, task, number, "n9", part)
            assert found == (False, True, b"sum" if right else None)

    @rule(task=TASKS, node=NODE, dead=NODE, limit=st.integers(1, 3))
    def a_process_adopts_what_a_dead_one_has_summed(self, task, node, dead, limit):
        number = self.sheets[task].number
        theirs = sorted(i for i, p in self.counting(task).items() if p.node == dead)
        taken = self.store.run(sums.adopt, task, number, node, dead, limit)
        there = self.sheets[task].running and not self.closing(task)
        assert sorted(row.id for row in taken) == (theirs[:limit] if there else [])
        for row in taken:
            assert self.store.run(sums.kept, row.id) == row.id.encode()
            self.papers[row.id].node = node

    # The fleet

    @rule(device=DEVICES, which=ANY, at_work=st.booleans())
    def a_device_leaves_the_fleet_or_joins(self, device, which, at_work):
        busy = self.papers.get(self.pick(which, state="working"))
        if at_work and busy:
            device = busy.device
        if device not in self.fleet:
            assert self.store.run(devices.withdraw, device, self.terms) is None
            return self.joins(device)
        own = {i: p for i, p in self.papers.items() if p.device == device}
        if any(
            p.counted == self.sheets[p.task].number and self.closing(p.task) for p in own.values()
        ):
            with pytest.raises(Unavailable):  # whether a model holds it is known soon
                self.store.run(devices.withdraw, device, self.terms)
            return None
        found = self.store.run(devices.withdraw, device, self.terms)
        self.fleet.discard(device)
        kept = []
        for identifier, paper in own.items():
            sheet = self.sheets[paper.task]
            if paper.counted == sheet.number and sheet.running:
                kept.append((identifier, identifier.encode()))
                sheet.arrived -= 1
            del self.papers[identifier]
        for sheet in self.sheets.values():
            sheet.served.discard(device)
        assert [(row.id, data) for row, data in found.kept] == sorted(kept)
        assert found.dropped == len(kept)

    # What holds after every step

    def row(self, task, number):
        text = "SELECT * FROM rounds WHERE task = $1 AND number = $2"
        return self.store.rows(text, task, number)[0]

    @invariant()
    def every_assignment_is_what_the_book_says(self):
        found = {
            row["id"]: (row["state"], row["counted"], row["node"] if row["counted"] else None)
            for row in self.store.rows("SELECT * FROM assignments")
        }
        assert found == {
            i: (p.state, p.counted, p.node if p.counted else None) for i, p in self.papers.items()
        }

    @invariant()
    def a_round_counts_what_its_assignments_say(self):
        for task, sheet in self.sheets.items():
            if not sheet.running:
                continue
            row, counting = self.row(task, sheet.number), self.counting(task)
            working = sum(map(sheet.has_place, self.of(task, "working")))
            assert row["working"] == working
            assert row["arrived"] == sheet.arrived == len(counting)
            assert (row["dropped"], row["started"]) == (sheet.dropped, sheet.started)
            assert row["phase"] == ("closing" if sheet.ending else "open")
            assert row["examples"] == sum(p.examples for p in counting.values())

    @invariant()
    def places_hold(self):
        for task, sheet in self.sheets.items():
            if sheet.running and sheet.policy.late is Late.REFUSE:
                assert self.taken(task) <= sheet.places
            assert sheet.policy.goal <= sheet.places <= sheet.policy.places(3.0)

    @invariant()
    def a_device_serves_one_task_at_a_time(self):
        working = [p.device for p in self.papers.values() if p.state == "working"]
        assert len(working) == len(set(working))
        assert set(working) <= self.fleet

    @invariant()
    def nothing_is_at_work_for_a_task_that_is_over(self):
        for task, sheet in self.sheets.items():
            assert sheet.running or not self.of(task, "working")

    @invariant()
    def a_task_has_one_open_round_while_it_runs_and_a_model_for_each_version(self):
        for task, sheet in self.sheets.items():
            found = self.store.rows(
                "SELECT number, phase, closer FROM rounds WHERE task = $1", task
            )
            assert sorted(row["number"] for row in found) == list(range(1, sheet.number + 1))
            open_ = [row for row in found if row["phase"] in ("open", "closing")]
            assert [row["number"] for row in open_] == [sheet.number] * sheet.running
            assert all(row["closer"] == sheet.closer for row in open_ if sheet.ending)
            versions = self.store.rows("SELECT version FROM models WHERE task = $1", task)
            assert sorted(v["version"] for v in versions) == list(range(sheet.version + 1))

    @invariant()
    def the_bytes_of_what_counts_are_kept_until_the_round_is_over(self):
        needed = {
            identifier: (task, sheet.number, identifier.encode())
            for task, sheet in self.sheets.items()
            if sheet.running
            for identifier in self.counting(task)
        }
        kept = {i: k for i, k in self.store.kept.items() if i in self.papers}
        assert kept == needed

    @invariant()
    def the_parts_of_a_round_have_the_tags_of_what_counts(self):
        for task, sheet in self.sheets.items():
            parts = self.store.run(sums.portions, task, sheet.number)
            expected: dict[str | None, list[int]] = {}
            for identifier, paper in self.counting(task).items():
                expected.setdefault(paper.node, []).append(tag(identifier))
            assert {p.node: (p.updates, p.tags) for p in parts} == {
                node: (len(tags), sum(tags)) for node, tags in expected.items()
            }


def test_in_any_order_the_transactions_keep_the_book():
    run_state_machine_as_test(
        AnyOrder, settings=settings(max_examples=150, stateful_step_count=50, deadline=None)
    )
