"""The personal version of a model on its way to local programs, over a real plan and real examples:
the better of the two, or the published one and why."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_agent.handoff import weights_of as weights_inside
from edge_agent.job import Job, Outcome, Report
from edge_agent.keeping import Offer, Why
from edge_agent.models import Info, open_model
from edge_agent.shelf import Shelf
from edge_agent.sitting import run
from tests.edge_agent.plans import (
    FLOWERS,
    PERSONAL,
    copied,
    flowers,
    job_of,
    manifest_of,
    weights_of,
)
from tests.edge_agent.samples import assignment
from wire import checkpoint
from wire.checkpoint import Weights
from wire.digest import digest_of
from wire.plan import Slot

NOW = "2026-07-01T12:00:00+02:00"


class Device:
    """A device that is offered models, in a child's code but in this process."""

    def __init__(self, folder: Path, plan: Path = PERSONAL) -> None:
        self.folder = folder
        self.plan = plan
        self.shelf = Shelf(folder / "models" / "personal")
        self.clock = 0.0
        self.tick = 0.0

    def now(self) -> float:
        """A clock that ticks whenever it is looked at."""
        self.clock += self.tick
        return self.clock

    def offered(
        self,
        version: int,
        weights: Weights | None = None,
        **changes: object,
    ) -> Report:
        data = checkpoint.write(weights or weights_of(self.plan))
        (self.folder / "model").write_bytes(data)
        offer = Offer(
            folder=str(self.shelf.folder),
            task="personal",
            version=version,
            plan=manifest_of(self.plan).digest(),
            model=digest_of(data),
            now=NOW,
        )
        job = job_of(
            self.plan,
            self.folder,
            train=False,
            model=str(self.folder / "model"),
            offer=offer,
            tuning_seconds=60.0,
        )
        return self.done(msgspec.structs.replace(job, **changes))

    def done(self, job: Job) -> Report:
        return run(job, lambda: lambda: False, self.now)

    def info(self) -> Info:
        found = self.shelf.current()
        assert found is not None
        return found

    def outputs(self, x: np.ndarray) -> np.ndarray:
        session = open_model("personal", self.shelf.folder.parent).session()
        return np.asarray(session.run(None, {"x": x})[0])


@pytest.fixture
def device(tmp_path) -> Device:
    return Device(tmp_path)


def tuned_by(folder: Path, **changes: object) -> Path:
    """The plan, with another `personal` in its manifest."""
    plan = copied(PERSONAL, folder / "plan")
    personal = manifest_of(PERSONAL).tuning
    assert personal is not None
    made = manifest_of(PERSONAL, personal=msgspec.structs.replace(personal, **changes))
    (plan / "manifest.json").write_bytes(made.to_bytes())
    return plan


def times(factor: float) -> Weights:
    """Another model."""
    return {name: values * np.float32(factor) for name, values in weights_of(PERSONAL).items()}


def test_local_programs_get_the_personal_version_where_it_does_better(device):
    report = device.offered(1)
    assert report.outcome is Outcome.DONE
    assert report.metrics is not None
    assert report.personal.keys() == {"loss", "accuracy"}
    assert report.personal["loss"] < report.metrics["loss"]
    info = device.info()
    assert (info.personal, info.version, info.code) == (True, 1, "first")
    assert (info.value, info.published) == (report.personal["loss"], report.metrics["loss"])
    assert info.model == digest_of(checkpoint.write(weights_of(PERSONAL)))
    assert info.why == (
        f"there was none before; made personal: loss {info.published:.6g} as published"
    )


def test_they_get_the_very_weights_that_were_measured(device):
    report = device.offered(1)
    _, held_out = flowers().split(0.2)
    scores = device.outputs(held_out.arrays["x"])
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    loss = -logs[np.arange(len(held_out)), held_out.arrays["label"]].mean()
    assert loss == pytest.approx(report.personal["loss"], rel=1e-5)


def test_one_that_is_not_strictly_better_leaves_the_published_model(tmp_path):
    device = Device(tmp_path, tuned_by(tmp_path, learning_rate=1e-30))
    report = device.offered(1)
    assert report.metrics is not None
    assert report.personal == report.metrics  # still a figure for those who run the fleet
    info = device.info()
    assert (info.personal, info.published) == (False, None)
    assert info.value == report.metrics["loss"]
    assert "; no personal version: it is not better: loss" in info.why


def test_it_is_made_anew_of_each_version_that_is_adopted(device):
    device.offered(1)
    first = device.info()
    device.offered(2, weights=times(1.01))
    assert (device.info().version, device.info().personal) == (2, True)
    assert f"before {first.value:.6g}" in device.info().why
    graph, like = (PERSONAL / "model.onnx").read_bytes(), checkpoint.write(times(1.01))
    inside = weights_inside(device.shelf.path.read_bytes(), graph, like)
    found = checkpoint.read(inside, manifest_of(PERSONAL).parameters)
    np.testing.assert_array_equal(found["w1"], times(1.01)["w1"])
    assert (found["w2"] != times(1.01)["w2"]).any()


def test_the_one_it_takes_the_place_of_is_a_personal_one_too(device):
    """The rules of today, with the personal version in the place of the published one."""
    device.offered(1)
    before = device.info()
    report = device.offered(2, weights=times(1.01), tuning_seconds=0.0)
    assert report.decision is not None
    assert report.decision.why is Why.WORSE
    assert f"before {before.value:.6g}" in report.decision.detail
    assert device.info() == before


def test_a_model_that_they_have_is_not_made_personal_again(device):
    device.offered(1)
    written = device.shelf.path.stat().st_mtime_ns
    report = device.offered(1)
    assert report.decision is not None
    assert (report.decision.why, report.personal) == (Why.THE_SAME, {})
    assert device.shelf.path.stat().st_mtime_ns == written


def test_going_back_from_a_personal_version_is_going_back_from_its_published_one(device):
    device.offered(1)
    device.offered(2, weights=times(1.01))
    assert device.info().version == 2
    device.shelf.rollback(NOW)
    report = device.offered(2, weights=times(1.01))
    assert report.decision is not None
    assert (report.decision.why, device.info().version) == (Why.SET_ASIDE, 1)


def test_a_training_comes_first(device):
    """Its job measures the model and leaves the rest to the next one."""
    job = msgspec.structs.replace(
        job_of(PERSONAL, device.folder),
        offer=Offer(
            folder=str(device.shelf.folder),
            task="personal",
            version=1,
            plan=manifest_of(PERSONAL).digest(),
            model=assignment().model,
            now=NOW,
        ),
        tuning_seconds=60.0,
    )
    report = device.done(job)
    assert report.outcome is Outcome.DONE
    assert report.metrics is not None
    assert report.decision is not None
    assert (report.decision.keep, report.decision.why) == (False, Why.LATER)
    assert report.personal == {}
    assert device.shelf.current() is None
    assert job.update is not None
    assert Path(job.update).exists()


def test_what_takes_too_long_leaves_the_published_model(device):
    device.tick = 1.0
    report = device.offered(1, tuning_seconds=3.0)
    assert (report.outcome, report.personal) == (Outcome.DONE, {})
    assert not device.info().personal
    assert device.info().why.endswith("no personal version: not done in 3 s")


def test_none_is_made_when_none_is_asked_for(device):
    report = device.offered(1, tuning_seconds=0.0)
    assert (report.outcome, report.personal) == (Outcome.DONE, {})
    assert not device.info().personal
    assert device.info().why == "there was none before"


def test_a_task_without_it_is_as_it_was(tmp_path):
    device = Device(tmp_path, FLOWERS)
    report = device.offered(1)
    assert (report.outcome, report.personal) == (Outcome.DONE, {})
    assert device.info().why == "there was none before"


@pytest.mark.parametrize("hold_out", [0.0, 1.0])
def test_it_needs_examples_of_both_kinds(device, hold_out):
    report = device.offered(1, hold_out=hold_out)
    assert report.personal == {}
    assert not device.info().personal


def test_one_that_diverges_leaves_the_published_model(tmp_path):
    device = Device(tmp_path, tuned_by(tmp_path, learning_rate=1e38))
    report = device.offered(1)
    assert (report.outcome, report.personal) == (Outcome.DONE, {})
    assert not device.info().personal
    assert "no personal version: the loss is nan after" in device.info().why


def test_one_that_needs_too_much_memory_leaves_the_published_model(tmp_path):
    vast = Slot(name="vast", shape=(1 << 31, 1 << 9))
    device = Device(tmp_path, tuned_by(tmp_path, state=(vast,)))
    report = device.offered(1)
    assert (report.outcome, report.personal) == (Outcome.DONE, {})
    assert not device.info().personal
    assert "no personal version: out of memory: " in device.info().why


def test_a_graph_that_cannot_be_run_leaves_the_published_model(tmp_path):
    plan = copied(PERSONAL, tmp_path / "plan")
    (plan / "personal.onnx").write_bytes(b"nonsense")
    device = Device(tmp_path, plan)
    report = device.offered(1)
    assert (report.outcome, report.personal) == (Outcome.DONE, {})
    assert not device.info().personal
    assert "no personal version: personal.onnx cannot be run" in device.info().why
