"""The ledger: a restart after any step of a round brings back the same round and the same sum."""

import shutil
import sqlite3
from copy import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from coordinator import taskfile
from coordinator.ledger import Ledger, Services
from coordinator.metrics import Metrics
from coordinator.round import Ending, Phase, Reason
from coordinator.running import RunningTask
from coordinator.store.blobs import BlobStore
from coordinator.store.database import Database
from coordinator.store.records import TaskRecord
from coordinator.store.spool import Spool
from coordinator.store.worker import Worker
from tests.coordinator.plans import constant, plan, weights
from tests.coordinator.test_store import DEVICE, assignment
from wire import checkpoint
from wire.update import Update, UpdateHeader, read, write

GOAL = Ending(Phase.CLOSED, Reason.GOAL)
DEADLINE = Ending(Phase.CLOSED, Reason.DEADLINE)
TOO_FEW = Ending(Phase.ABANDONED, Reason.TOO_FEW)
STOPPED = Ending(Phase.ABANDONED, Reason.STOPPED)
HOUR = 3600.0
START = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that stands until told. The monotonic one starts anew with each machine."""

    def __init__(self, wall: datetime, monotonic: float) -> None:
        self._wall = wall
        self._monotonic = monotonic

    def monotonic(self) -> float:
        return self._monotonic

    def now(self) -> datetime:
        return self._wall

    def passes(self, seconds: float) -> None:
        self._wall += timedelta(seconds=seconds)
        self._monotonic += seconds


class Machine:
    """A coordinator's disk, and the process over it, which can be started again."""

    def __init__(self, folder: Path, sections: str = "", **round_keys: object) -> None:
        self.folder = folder
        made = plan(sections=sections, **({"goal": 3, "minimum": 2} | round_keys))
        self.manifest, self.definition = made.manifest, made.definition
        self.clock = Clock(START, 50.0)
        self._open()
        for data in [self.manifest.to_bytes(), *made.files]:
            self.services.blobs.put(data)
        first = self.services.blobs.put(made.initial)
        record = TaskRecord(
            name="digits",
            state="running",
            definition=made.definition,
            plan=self.services.blobs.put(self.manifest.to_bytes()),
            created=0.0,
        )
        self.services.database.create_task(record, first)
        self.services.database.add_token("join", "hash", 100, 1e12)
        for index in range(4):
            self._enroll(f"d{index}")
        self._load()

    def copy(self, folder: Path) -> "Machine":
        """The same machine, stopped, with a disk of its own: a copy costs less than a new one."""
        other = copy(self)
        other.folder = folder / "copy"
        shutil.copytree(self.folder, other.folder)
        other.restart(monotonic=50.0)
        return other

    def stop(self) -> None:
        self.services.database.close()

    def restart(self, monotonic: float = 7.0, wall: float = 0.0) -> None:
        """The process ends, at once, and another starts; its monotonic clock reads otherwise."""
        self.services.database.close()
        self.clock = Clock(self.clock.now() + timedelta(seconds=wall), monotonic)
        self._open()
        self._load()

    def assign(self, index: int) -> None:
        row = assignment(
            f"{self.round.number}-{index}",
            round=self.round.number,
            device=f"d{index}",
            assigned=self.services.wall(),
        )
        self.ledger.assign(row)
        self.round.assign(row.id, row.device, self.clock.monotonic())

    def upload(self, index: int, value: float | None = None, examples: int = 10) -> Update:
        """The update is in the spool, whole, but does not count yet."""
        name = f"{self.round.number}-{index}"
        header = UpdateHeader(
            assignment=name,
            plan=self.ledger.model.plan,
            base=self.ledger.model.model,
            codec="float32",
            examples=examples,
            steps=1,
            loss=0.5,
            seconds=1.0,
        )
        delta = weights(seed=index) if value is None else constant(value)
        self.services.spool.write(name, 0, write(header, delta, np.random.default_rng(0)))
        return read(self.services.spool.seal(name), self.manifest.parameters, "float32")

    def accept(self, index: int, value: float | None = None, examples: int = 10) -> None:
        update = self.upload(index, value, examples)
        self.ledger.accept(update.header.assignment, update)
        self.round.count(update.header.assignment)

    def give_up(self, index: int) -> None:
        name = f"{self.round.number}-{index}"
        self.services.database.drop(name, "given_up", "battery", "", self.services.wall())
        self.round.leave(name)

    def leave(self, index: int) -> None:
        task = RunningTask(self.services, self.ledger, self.round)
        recount = task.recount_without(f"d{index}")
        self.services.database.withdraw(f"d{index}", recount.lost if recount else {})
        task.forget(f"d{index}", recount)

    def end(self, ending: Ending) -> None:
        ended, following = self.ledger.end(ending)
        self.ended = ended
        self.round.end(ending)
        if following is not None:
            self.round = following

    def model(self) -> dict[str, np.ndarray]:
        data = self.services.blobs.get(self.ledger.model.model)
        return checkpoint.read(data, self.manifest.parameters)

    def _open(self) -> None:
        self.services = Services(
            database=Database(self.folder / "coordinator.sqlite"),
            blobs=BlobStore(self.folder / "blobs"),
            spool=Spool(self.folder / "spool"),
            worker=Worker("unused"),
            clock=self.clock,
            metrics=Metrics(),
        )

    def _load(self) -> None:
        (record,) = self.services.database.tasks()
        task = taskfile.parse(self.definition)
        self.ledger = Ledger(self.services, record, task, self.manifest)
        self.round = self.ledger.load()

    def _enroll(self, name: str) -> None:
        fields = {f: getattr(DEVICE, f) for f in DEVICE.__struct_fields__}
        assert self.services.database.enroll(type(DEVICE)(**(fields | {"id": name})), "join")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A machine that has a task and four devices, stopped."""
    made = Machine(tmp_path_factory.mktemp("pristine"))
    made.stop()
    return made


@pytest.fixture
def machine(pristine, tmp_path):
    made = pristine.copy(tmp_path)
    yield made
    made.stop()


STEPS = [
    ("assign", 0),
    ("assign", 1),
    ("accept", 0),
    ("assign", 2),
    ("give_up", 1),
    ("assign", 3),
    ("accept", 3),
    ("upload", 2),
    ("accept", 2),
]


def play(machine, restarts):
    """One round to its goal with a restart before each step in `restarts`; the new model."""
    for number, (step, index) in enumerate([*STEPS, ("end", GOAL)]):
        if number in restarts:
            machine.restart()
        getattr(machine, step)(index)
    return machine.ended, machine.model(), machine.ledger.model


@pytest.fixture(scope="module")
def uninterrupted(pristine, tmp_path_factory):
    machine = pristine.copy(tmp_path_factory.mktemp("uninterrupted"))
    played = play(machine, ())
    machine.stop()
    return played


@pytest.mark.parametrize(
    "restarts", [*((n,) for n in range(len(STEPS) + 1)), tuple(range(len(STEPS) + 1))]
)
def test_a_restart_before_any_step_changes_neither_the_round_nor_its_model(
    machine, uninterrupted, restarts
):
    ended, model, published = play(machine, restarts)
    expected_ended, expected_model, expected_published = uninterrupted
    assert ended == expected_ended
    assert (ended.updates, ended.examples) == (3, 30)
    assert published.version == expected_published.version == 1
    for name, values in expected_model.items():
        # The sum is folded in the order of assignment after a restart: its last bit may differ.
        np.testing.assert_allclose(model[name], values, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", range(len(STEPS) + 1))
def test_a_restart_brings_back_the_round_as_it_was(machine, steps):
    for step, index in STEPS[:steps]:
        getattr(machine, step)(index)
    was = machine.round
    machine.restart(monotonic=50.0)
    assert machine.round == was


def test_an_update_that_was_uploaded_but_not_journalled_does_not_count(machine):
    machine.assign(0)
    machine.upload(0)
    machine.restart()
    assert machine.round.working == {"1-0": "d0"}
    assert machine.round.arrived == {}
    machine.end(TOO_FEW)
    assert machine.ended.updates == 0


def test_a_journalled_update_counts_though_nobody_was_told(machine):
    machine.assign(0)
    update = machine.upload(0)
    machine.ledger.accept("1-0", update)  # and the process ends before the answer
    machine.restart()
    assert machine.round.arrived == {"1-0": "d0"}


def test_two_restarts_count_an_update_no_more_than_one(machine):
    machine.assign(0)
    machine.accept(0, value=1.0)
    before = machine.model()
    for _ in range(3):
        machine.restart()
    machine.end(DEADLINE)
    assert (machine.ended.updates, machine.ended.examples) == (1, 10)
    np.testing.assert_allclose(machine.model()["w"] - before["w"], 1.0, rtol=1e-6)


def test_weights_are_capped_alike_before_and_after_a_restart(tmp_path):
    machine = Machine(tmp_path, sections="[aggregation]\nkind = 'fedavg'\nmax_examples = 100")
    for index, (value, examples) in enumerate([(1.0, 5000), (4.0, 50)]):
        machine.assign(index)
        machine.accept(index, value, examples)
    before = machine.model()
    machine.restart()
    machine.end(DEADLINE)
    assert machine.ended.examples == 150
    np.testing.assert_allclose(machine.model()["w"] - before["w"], 2.0, rtol=1e-6)
    machine.stop()


# A device that leaves


def arrive(machine, indices):
    for index in indices:
        machine.assign(index)
        # One delta is so large that to add it and to subtract it again would show.
        machine.accept(index, value=1e9 if index == 0 else None, examples=7 + index)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 2, 3), (3, 2, 1, 0)])
@pytest.mark.parametrize("restarts", ["no restart", "before", "after"])
def test_the_model_is_bit_for_bit_what_it_had_been_without_who_left(
    pristine, tmp_path, order, restarts
):
    left, never = (pristine.copy(tmp_path / name) for name in ("left", "never"))
    arrive(left, order[:3])
    if restarts == "before":
        left.restart()
    left.leave(0) if 0 in order[:3] else None
    if restarts == "after":
        left.restart()
    arrive(left, order[3:])
    left.leave(0) if 0 in order[3:] else None
    left.end(DEADLINE)
    arrive(never, [index for index in order if index != 0])
    never.end(DEADLINE)
    assert left.ledger.model.model == never.ledger.model.model  # a digest
    assert (left.ended.updates, left.ended.examples) == (3, 27)
    left.stop()
    never.stop()


def test_who_leaves_without_an_accepted_update_costs_no_recount(machine):
    machine.assign(0)
    machine.assign(1)
    machine.accept(1)
    machine.services.spool.path("1-1").unlink()  # a recount would miss it
    machine.leave(0)
    assert machine.round.arrived == {"1-1": "d1"}
    machine.end(DEADLINE)
    assert machine.ended.updates == 1


def test_a_recount_that_misses_a_file_costs_that_update_alone(machine):
    start = machine.model()
    for index, value in enumerate([5.0, 1.0, 2.0]):
        machine.assign(index)
        machine.accept(index, value=value)
    machine.services.spool.path("1-1").unlink()
    machine.leave(0)
    assert (machine.round.arrived, machine.round.left) == ({"1-2": "d2"}, {"1-1": "d1"})
    lost = machine.services.database.assignment("1-1")
    assert (lost.state, lost.reason) == ("refused", "lost")
    machine.restart()
    assert (machine.round.arrived, machine.round.left) == ({"1-2": "d2"}, {"1-1": "d1"})
    machine.end(DEADLINE)
    np.testing.assert_allclose(machine.model()["w"] - start["w"], 2.0, rtol=1e-6)


def test_a_model_that_was_published_keeps_what_is_in_it(machine):
    for index in range(2):
        machine.assign(index)
        machine.accept(index, value=1.0)
    machine.end(DEADLINE)
    published = machine.ledger.model
    machine.leave(0)
    machine.restart()
    assert machine.ledger.model == published
    first, _ = machine.services.database.rounds("digits", 9)
    assert (first.updates, first.examples) == (2, 20)
    assert [a.device for a in machine.services.database.assignments("digits", 1)] == ["d1"]


# The end of a round


def test_a_crash_between_the_model_and_the_journal_ends_the_round_again(machine):
    for index in range(3):
        machine.assign(index)
        machine.accept(index)
    first = machine.ledger.model.model
    machine.services.database.close()  # the blob gets to the disk, the transaction does not
    with pytest.raises(sqlite3.ProgrammingError):
        machine.end(GOAL)
    assert machine.ledger.model.model == first
    blobs = sorted((machine.folder / "blobs").iterdir())
    machine.restart()
    assert machine.round.number == 1
    assert machine.ledger.model.version == 0
    machine.end(GOAL)
    assert machine.ledger.model.version == 1
    assert machine.ended.updates == 3
    assert sorted((machine.folder / "blobs").iterdir()) == blobs  # the very same model


def test_a_restart_after_the_end_opens_the_next_round_with_an_empty_sum(machine):
    for index in range(3):
        machine.assign(index)
        machine.accept(index, value=1.0)
    machine.end(GOAL)
    first = machine.model()
    machine.restart()
    assert machine.round.number == 2
    assert machine.round.deadline is None
    assert machine.round.arrived == {}
    np.testing.assert_array_equal(machine.model()["w"], first["w"])
    machine.assign(0)
    machine.accept(0, value=2.0, examples=7)
    machine.end(DEADLINE)
    assert (machine.ended.updates, machine.ended.examples) == (1, 7)
    np.testing.assert_allclose(machine.model()["w"] - first["w"], 2.0, rtol=1e-6)


def test_an_abandoned_round_keeps_the_model_and_forgets_its_sum(machine):
    machine.assign(0)
    machine.accept(0, value=9.0)
    before = machine.ledger.model
    machine.end(TOO_FEW)
    assert machine.ledger.model == before
    assert (machine.round.number, machine.ended.updates) == (2, 1)
    machine.assign(1)
    machine.accept(1, value=1.0)
    start = machine.model()
    machine.end(DEADLINE)
    np.testing.assert_allclose(machine.model()["w"] - start["w"], 1.0, rtol=1e-6)


def test_a_mean_out_of_range_abandons_the_round_and_the_next_goes_on(machine):
    for index in range(2):
        machine.assign(index)
        machine.accept(index, value=3.4e38)
    machine.end(GOAL)
    start = machine.ledger.model
    assert start.version == 1  # 3.4e38 is a number still
    for index in range(2):
        machine.assign(index)
        machine.accept(index, value=3.4e38)
    machine.end(GOAL)
    assert (machine.ended.phase, machine.ended.reason) == ("abandoned", "not_finite")
    assert machine.ledger.model == start
    machine.restart()
    assert machine.round.number == 3


@pytest.mark.parametrize(
    ("ending", "state", "version"), [(STOPPED, "stopped", 0), (GOAL, "done", 1)]
)
def test_an_ended_task_comes_back_as_ended(tmp_path, ending, state, version):
    machine = Machine(tmp_path, rounds=1)
    machine.assign(0)
    machine.accept(0)
    machine.end(ending)
    machine.restart()
    assert machine.ledger.record.state == state
    assert machine.ledger.model.version == version
    assert machine.round.ending == ending
    assert machine.round.arrived == {"1-0": "d0"}
    machine.stop()


# The clock


def test_the_deadline_stays_where_it_was_on_the_wall_clock(machine):
    machine.assign(0)
    machine.clock.passes(600.0)
    machine.restart(monotonic=3.0, wall=60.0)
    assert machine.round.remaining(machine.clock.monotonic()) == pytest.approx(HOUR - 660.0)


def test_a_deadline_that_passed_while_nothing_ran_is_due_at_once(machine):
    machine.assign(0)
    machine.restart(wall=30 * 86400.0)
    assert machine.round.due(machine.clock.monotonic()) == TOO_FEW


def test_a_wall_clock_that_was_set_back_gives_no_more_than_a_whole_deadline(machine):
    machine.assign(0)
    machine.restart(wall=-30 * 86400.0)
    assert machine.round.remaining(machine.clock.monotonic()) == HOUR


def test_a_round_that_nobody_has_joined_has_no_deadline_after_a_restart(machine):
    machine.restart(wall=86400.0)
    assert machine.round.deadline is None


# A disk that forgets


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_an_accepted_update_that_the_disk_lost_costs_nobody_else_theirs(machine, damage):
    for index in range(2):
        machine.assign(index)
        machine.accept(index, value=1.0 + index)
    path = machine.services.spool.path("1-0")
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(data[:-5] if damage == "cut" else b"\0" * len(data))
    start = machine.model()
    machine.restart()
    assert machine.round.arrived == {"1-1": "d1"}
    assert machine.round.left == {"1-0": "d0"}
    lost = machine.services.database.assignment("1-0")
    assert (lost.state, lost.reason) == ("refused", "lost")
    machine.end(DEADLINE)
    assert machine.ended.updates == 1
    np.testing.assert_allclose(machine.model()["w"] - start["w"], 2.0, rtol=1e-6)
