"""What a device carries from round to round: of the last round that counted, and of no other."""

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_agent.carried import Carried
from edge_agent.carried_files import CarriedFiles
from edge_agent.job import Outcome, Report
from edge_agent.session import Trainer, train
from edge_agent.sitting import run as run_job
from edge_agent.state import StateFolder
from tests.edge_agent.plans import FLOWERS, SCAFFOLD, flowers, job_of, manifest_of, weights_of
from tests.edge_agent.samples import assignment
from wire import update
from wire.messages import Assignment
from wire.tensors import Array

MANIFEST = manifest_of(SCAFFOLD)
OWN = [f"own/{p.name}" for p in MANIFEST.parameters]


class Device:
    """A device that trains from the same model, round after round."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.state = StateFolder(folder)
        self.state.create()

    def work(self, number: int, **changes: object) -> Assignment:
        return assignment(f"a-{number}", seed=number, **changes)

    def train(
        self, number: int, batches: int = 10**6, graphs: Path = SCAFFOLD, **changes
    ) -> Report:
        """A sitting of so many batches at most."""
        work = self.work(number, **changes)
        job = msgspec.structs.replace(
            job_of(graphs, self.state.folder, evaluate=False),
            assignment=work,
            update=str(self.state.update_path(work.id)),
            checkpoint=str(self.state.checkpoint_path(work.id)),
            residuals=str(self.state.residuals),
        )
        left = iter(range(batches - 1))
        return run_job(job, lambda: lambda: next(left, None) is None)

    def round(self, number: int, **changes: object) -> Report:
        """Train, and the update is accepted."""
        report = self.train(number, **changes)  # type: ignore[arg-type]
        assert report.outcome is Outcome.DONE
        self.state.forget_update(f"a-{number}")
        return report

    def sent(self, number: int) -> dict[str, Array]:
        data = self.state.update(f"a-{number}")
        return dict(update.read(data, MANIFEST.parameters, "float32").delta)

    def begins(self, **changes: object) -> dict[str, bytes]:
        """What the next training would begin with."""
        work = self.work(99, **changes)
        carried = Carried(work, MANIFEST, self.state.outbox, str(self.state.residuals))
        return {name: values.tobytes() for name, values in carried.begin().items()}

    @property
    def files(self) -> CarriedFiles:
        return CarriedFiles(self.state.residuals)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "device")


def gradients(number: int, own: dict[str, Array] | None = None) -> dict[str, Array]:
    """The last values of the slots that are carried, of a training by itself."""
    training, _ = flowers().split(0.2)
    trainer = Trainer(MANIFEST, SCAFFOLD, weights_of(SCAFFOLD), 1, carried=own)
    rng = np.random.default_rng(number)
    train(trainer, MANIFEST, training, rng, lambda: False)
    state = trainer.state()
    return {slot: state[source].copy() for slot, source in MANIFEST.carries.items()}


def raw(tensors: dict[str, Array]) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in tensors.items()}


# Round after round


def test_a_round_begins_with_what_the_last_one_ended_with(device):
    assert list(MANIFEST.carries) == OWN
    assert device.begins() == {}
    device.round(1)
    first = gradients(1)
    assert device.begins() == raw(first)
    assert all(np.abs(values).max() > 0 for values in first.values())
    device.round(2)
    assert device.begins() == raw(gradients(2, first))


def test_what_is_carried_is_no_part_of_the_update(device):
    device.train(1)
    assert sorted(device.sent(1)) == sorted(p.name for p in MANIFEST.parameters)
    assert len(device.state.update("a-1")) < 1000


def test_a_slot_without_a_next_value_stays_as_it_is():
    training, _ = flowers().split(0.2)
    own = {slot: values + 1 for slot, values in gradients(1).items()}
    trainer = Trainer(MANIFEST, SCAFFOLD, weights_of(SCAFFOLD), 1, carried=own)
    for _ in range(3):
        trainer.step(training)
        state = trainer.state()
        for slot, values in own.items():
            np.testing.assert_array_equal(state[slot], values)


def test_a_plan_that_carries_nothing_leaves_no_file(device):
    device.train(1, graphs=FLOWERS)
    assert not list(device.state.residuals.iterdir())


# Only of what counted


def test_until_its_update_is_accepted_nothing_of_a_round_is_carried(device):
    device.round(1)
    first = device.begins()
    device.train(2)
    assert device.begins() == first
    device.state.forget_update("a-2")
    assert device.begins() == raw(gradients(2, gradients(1)))


@pytest.mark.parametrize("settled", [{"accepted": False}, {"late": "digits"}])
def test_of_a_round_that_did_not_count_nothing_is_carried(device, settled):
    device.round(1)
    first = device.begins()
    device.train(2)
    device.state.forget_update("a-2", **settled)
    assert device.begins() == first
    assert len(list(device.state.residuals.iterdir())) == 1


def test_a_training_that_failed_leaves_the_old_one(device):
    device.round(1)
    first = device.begins()
    assert device.train(2, codec="no-such:9").outcome is Outcome.CRASHED
    assert device.train(2, batches=3).outcome is Outcome.PREEMPTED
    assert device.begins() == first
    assert len(list(device.state.residuals.iterdir())) == 1


def test_a_disk_that_is_full_costs_the_update_not_the_books(device):
    """No update goes out that a device would not remember."""
    device.round(1)
    first = device.begins()
    path = device.files.carrying("digits", "a-2")
    path.with_name(f".{path.name}.new").mkdir()
    assert device.train(2).outcome is Outcome.CRASHED
    assert device.state.waiting() == []
    assert device.begins() == first


def test_a_kill_before_the_update_was_written_leaves_the_old_one(device):
    device.round(1)
    first = device.begins()
    device.train(2)
    device.state.update_path("a-2").unlink()  # as if it had come before that
    device.train(3)
    assert not device.files.carrying("digits", "a-2").exists()
    assert device.begins() == first


def test_a_kill_between_the_answer_and_the_end_of_the_update_changes_nothing(device):
    """The update is sent, and accepted, once more."""
    device.train(1)
    device.files.settle("a-1", accepted=True)
    assert device.state.waiting() == ["a-1"]
    first = device.begins()
    device.state.forget_update("a-1")
    assert device.begins() == first == raw(gradients(1))


@pytest.mark.parametrize("sittings", [[1], [8], [5, 9, 1], [23], [24]])
def test_a_training_in_sittings_is_one_without_a_break(tmp_path, sittings):
    broken, whole = Device(tmp_path / "one"), Device(tmp_path / "two")
    for one in (broken, whole):
        one.round(1)
    whole.train(2)
    for batches in sittings:
        assert broken.train(2, batches).outcome is Outcome.PREEMPTED
    report = broken.train(2)
    assert (report.outcome, report.resumed_at) == (Outcome.DONE, sum(sittings))
    for name, change in whole.sent(2).items():
        np.testing.assert_array_equal(broken.sent(2)[name], change)
    for one in (broken, whole):
        one.state.forget_update("a-2")
    assert broken.begins() == whole.begins()


# What cannot be used


@pytest.mark.parametrize(
    "changes", [{"plan": "sha256:" + "1a" * 32}, {"plan": "sha256:" + "2b" * 32, "version": 9}]
)
def test_that_of_another_plan_is_dropped(device, changes):
    device.round(1)
    report = device.round(2, **changes)
    assert "another plan" in report.forgot
    assert device.begins(**changes) == raw(gradients(2))


def test_that_of_another_task_stays(device):
    device.round(1)
    device.round(2, task="others")
    assert device.begins() == raw(gradients(1))
    assert device.begins(task="others") == raw(gradients(2))


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "pipe", "other"])
def test_a_damaged_one_is_dropped(device, damage):
    device.round(1)
    path = device.files.carried("digits")
    data = path.read_bytes()
    if damage == "pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        flipped = data[:-3] + bytes([data[-3] ^ 64]) + data[-2:]
        made = {"empty": b"", "cut": data[:-1], "flipped": flipped, "other": b"hello" * 99}
        path.write_bytes(made[damage])
    assert device.round(2).forgot
    assert device.begins() == raw(gradients(2))
    assert device.round(3).forgot == ""


def test_tasks_of_long_ago_are_forgotten(device):
    for number in range(18):
        device.round(number, task=f"task-{number}")
        os.utime(device.files.carried(f"task-{number}"), (number, number))
    assert len(list(device.state.residuals.iterdir())) == 16
    assert device.begins(task="task-17") == raw(gradients(17))
    assert device.begins(task="task-0") == {}


def test_another_fleet_finds_nothing_of_it(device):
    device.round(1)
    device.state.forget_fleet()
    assert device.begins() == {}
