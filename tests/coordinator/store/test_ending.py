"""What transactions of rounds must not forget, each by its shortest story."""

import pytest

from coordinator.round import Late, Phase, Round, RoundPolicy
from coordinator.store import assignments, devices, ending, handing, rounds, sums, tasks
from coordinator.store.assignments import Arrived
from coordinator.store.ending import Closing
from coordinator.store.records import AssignmentRecord, DeviceRecord, ModelRecord, TaskRecord
from coordinator.store.rounds import Terms
from tests.coordinator.store.memory import MemoryStore
from wire.messages import Facts, WaitReason

FACTS = Facts(agent="", machine="", system="", python="", runtime="", cores=1, memory_bytes=1)


class House:
    """A store with two tasks of one goal and three places each, and devices d0 to d9."""

    def __init__(self, late: Late, staleness: int, ends: int = 0) -> None:
        self.store = MemoryStore()
        self.store.run(devices.add_token, "token", "", 100, 1e9)
        for number in range(10):
            self.store.run(
                devices.enroll,
                DeviceRecord(
                    id=f"d{number}", name="", secret="", labels={}, facts=FACTS, enrolled=0, seen=0
                ),
                "token",
            )
        policy = RoundPolicy(1, 1, 60.0, late, staleness)
        self.terms = {name: Terms(name, policy, 3.0, 3.0, ends) for name in ("a", "b")}
        for name in self.terms:
            made = TaskRecord(name=name, state="running", definition="", plan="", created=0.0)
            self.store.run(tasks.create, made, "m0", Round(1, 0, policy, 3, 0.0))

    def assign(self, device: str, now: float = 0.0, task: str = "a"):
        name = f"{task}-{device}-{now:g}"
        made = self.store.run(assignments.assign, self.terms[task], name, device, 7, now)
        return made if isinstance(made, WaitReason) else made[0].id

    def accept(self, assignment: str, now: float):
        update = Arrived(assignment, b"update", "sha", 5, 1, 0.5)
        accepted = self.store.run(assignments.accept, self.terms["a"], [update], "n1", now)
        return accepted.arrivals[0][0]

    def look(self, now: float):
        return self.store.run(ending.begin_close, self.terms["a"], "n1", now)

    def finish(self, now: float) -> Round:
        closing = self.store.run(rounds.load, self.terms["a"])
        made = ModelRecord(task="a", version=closing.version + 1, digest="m", created=now)
        self.store.run(ending.finish_close, self.terms["a"], "n1", closing, made, 5, {}, now)
        return self.round()

    def close(self, assignment: str, now: float) -> Round:
        """Its update closes the round."""
        self.accept(assignment, now)
        assert isinstance(self.look(now), Closing)
        return self.finish(now)

    def round(self) -> Round:
        return self.store.run(rounds.load, self.terms["a"])

    def assignment(self, name: str) -> AssignmentRecord:
        found = self.store.run(assignments.assignment, name)
        assert found is not None
        return found


def test_who_gives_up_while_a_buffered_round_closes_has_no_place_in_the_next():
    house = House(Late.BUFFER, 2)
    first, second = house.assign("d0"), house.assign("d1")
    house.accept(first, 1.0)
    house.look(1.0)
    house.store.run(assignments.drop, house.terms["a"], second, "given_up", "", "", 2.0)
    assert house.finish(3.0).working == 0


def test_who_leaves_the_fleet_while_a_buffered_round_closes_has_no_place_in_the_next():
    house = House(Late.BUFFER, 2)
    first, _ = house.assign("d0"), house.assign("d1")
    house.accept(first, 1.0)
    house.look(1.0)
    assert house.store.run(devices.withdraw, "d1", house.terms) is not None
    assert house.finish(3.0).working == 0


def test_an_assignment_too_stale_to_count_frees_its_place():
    house = House(Late.BUFFER, 1)
    silent = house.assign("d0")
    for number in (1, 2):
        found = house.close(house.assign(f"d{number}", number), number + 0.5)
        assert (found.working, house.assignment(silent).state) == {
            1: (1, "working"),
            2: (0, "expired"),
        }[number]


def test_a_buffered_round_goes_on_though_all_who_work_are_gone():
    house = House(Late.BUFFER, 1)
    gone = [house.assign(f"d{number}") for number in range(3)]
    assert house.assign("d3") is WaitReason.ROUND_FULL
    for now in (60.0, 120.0):  # nobody comes, nobody gets a place
        assert house.look(now).phase is Phase.ABANDONED
    assert [house.assignment(name).state for name in gone] == ["expired"] * 3
    assert house.assign("d3", 121.0).startswith("a-d3")


@pytest.mark.parametrize("late", [Late.FOLD, Late.BUFFER])
@pytest.mark.parametrize("stopped", [False, True])
def test_when_a_task_is_over_its_devices_are_free_for_another(late, stopped):
    house = House(late, 5, ends=1)
    first, second = house.assign("d0"), house.assign("d1")
    if stopped:
        house.store.run(ending.begin_close, house.terms["a"], "n1", 1.0, stopped=True)
    else:
        house.close(first, 1.0)
    assert house.assignment(second).state == "expired"
    assert house.assign("d1", 2.0, task="b") == "b-d1-2"


def test_a_device_that_failed_is_one_of_those_asked_not_two():
    house = House(Late.REFUSE, 0)
    for number in range(3):
        house.assign(f"d{number}")
    assert house.look(60.0).phase is Phase.ABANDONED
    (ended, _) = house.store.run(rounds.rounds, "a", 2)
    assert (ended.arrived, ended.dropped, ended.working) == (0, 3, 0)


def test_nobody_takes_over_updates_while_their_model_is_made():
    # The closer has seen who has summed what: whoever moved one now would have it summed twice, or
    # not at all.
    house = House(Late.REFUSE, 0)
    update = house.assign("d0")
    house.accept(update, 1.0)
    assert isinstance(house.look(1.0), Closing)
    assert house.store.run(sums.adopt, "a", 1, "n2", "n1", 16) == []
    assert house.assignment(update).node == "n1"
    house.finish(2.0)
    assert house.store.run(sums.adopt, "a", 1, "n2", "n1", 16) == []


def test_updates_of_an_open_round_are_taken_over():
    house = House(Late.REFUSE, 0)
    update = house.assign("d0")
    house.accept(update, 1.0)
    assert [row.id for row in house.store.run(sums.adopt, "a", 1, "n2", "n1", 16)] == [update]
    assert house.assignment(update).node == "n2"


def test_a_closer_that_cannot_close_hands_its_claim_back_and_says_why():
    house = House(Late.REFUSE, 0)
    house.accept(house.assign("d0"), 1.0)
    assert isinstance(house.look(1.0), Closing)
    run, terms = house.store.run, house.terms["a"]
    assert not run(handing.hand_back, "a", 1, "n2", "not its own")
    assert run(handing.trouble, "a", 1) is None
    assert run(ending.take_over, terms, "n2", {"n1"}) is None
    assert run(handing.hand_back, "a", 1, "n1", "the disk is full")
    taken = run(ending.take_over, terms, "n2", {"n1"})
    assert isinstance(taken, Closing)
    assert (taken.round.phase, taken.round.ending.reason) == (Phase.CLOSING, "goal")
    assert run(handing.hand_back, "a", 1, "n2", "here, too")
    trouble = run(handing.trouble, "a", 1)
    assert (trouble.failures, trouble.host, trouble.reason) == (2, "n2", "here, too")
    assert not run(handing.hand_back, "a", 1, "n2", "not its own any more")
    assert isinstance(run(ending.take_over, terms, "n1", {"n2"}), Closing)
    assert house.finish(3.0).number == 2
    assert not run(handing.hand_back, "a", 1, "n1", "it is closed")
    assert run(handing.trouble, "a", 1) is None
