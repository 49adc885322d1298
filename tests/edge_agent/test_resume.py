"""A training that is stopped and goes on is one that never was stopped, bit for bit."""

import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.course import Stop
from edge_agent.examples import Examples
from edge_agent.job import Job, Outcome, Report
from edge_agent.sitting import run as run_job
from tests.edge_agent.plans import (
    ADAMW,
    DROPOUT,
    FLOWERS,
    LINE,
    PROXIMAL,
    PROXIMAL_ADAMW,
    flowers,
    job_of,
    manifest_of,
    saved,
)
from tests.edge_agent.samples import assignment
from tests.wire.codecs.samples import CODECS
from wire import tensors, update
from wire.checkpoint import Weights
from wire.plan import CHECKPOINT_NAME

STEPS = 24  # of flowers, in three epochs


def run(job: Job, batches: int | None = None) -> Report:
    """A sitting that is stopped after so many batches, if it is."""
    return run_job(job, lambda: stop_after(batches))


def stop_after(batches: int | None) -> Stop:
    left = iter(range(batches - 1)) if batches else iter(int, 1)
    return lambda: next(left, None) is None


class Clock:
    """A second passes at each look."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


def job_in(folder: Path, plan: Path = FLOWERS, codec: str = "uniform:8", **changes) -> Job:
    """A job that keeps its training in `folder`."""
    job = job_of(plan, folder, evaluate=False, checkpoint=str(folder / "kept"))
    return msgspec.structs.replace(job, assignment=assignment(codec=codec), **changes)


def result(job: Job) -> tuple[update.UpdateHeader, Weights]:
    """The update that the job left, but for the time it took."""
    data = Path(job.update).read_bytes()
    found = update.read(data, manifest_of(Path(job.plan)).parameters, job.assignment.codec)
    return msgspec.structs.replace(found.header, seconds=0.0), found.delta


def assert_same(job: Job, other: Job) -> None:
    (header, delta), (expected, wanted) = result(job), result(other)
    assert header == expected
    for name, change in delta.items():
        np.testing.assert_array_equal(change, wanted[name])


@pytest.fixture
def job(tmp_path):
    return job_in(tmp_path)


@pytest.fixture
def unbroken(tmp_path_factory):
    """A job like `job` that was never stopped."""
    made = job_in(tmp_path_factory.mktemp("unbroken"))
    assert run(made).steps == STEPS
    return made


# Going on


@given(
    plan=st.sampled_from([FLOWERS, ADAMW, LINE, PROXIMAL, PROXIMAL_ADAMW, DROPOUT]),
    codec=st.sampled_from(CODECS),
    sittings=st.lists(st.integers(1, 30), max_size=4),
)
def test_a_training_in_sittings_is_one_without_a_break(plan, codec, sittings):
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        job, unbroken = job_in(Path(first), plan, codec), job_in(Path(second), plan, codec)
        whole = run(unbroken)
        made = 0
        for batches in sittings:
            report = run(job, batches)
            assert report.resumed_at == made
            assert report.restarted == ""
            if report.outcome is Outcome.DONE:
                break
            assert report.outcome is Outcome.PREEMPTED
            made += batches
            assert report.steps == made
        else:
            report = run(job)
        assert report.outcome is Outcome.DONE
        assert report.steps == whole.steps
        assert report.loss == whole.loss
        assert_same(job, unbroken)
        assert not Path(job.checkpoint).exists()


@pytest.mark.parametrize("plan", [PROXIMAL, PROXIMAL_ADAMW], ids=["momentum", "adamw"])
def test_what_goes_on_is_still_pulled_to_the_model_it_was_given(plan, tmp_path):
    """Not to the weights as they stood when it was stopped."""
    (tmp_path / "whole").mkdir()
    job, unbroken = job_in(tmp_path, plan, "float32"), job_in(tmp_path / "whole", plan, "float32")
    run(unbroken)
    for batches in (7, 9):
        assert run(job, batches).outcome is Outcome.PREEMPTED
    assert run(job).resumed_at == 16
    assert_same(job, unbroken)


def test_what_goes_on_draws_the_numbers_that_it_would_have_drawn(tmp_path):
    (tmp_path / "whole").mkdir()
    job, unbroken = job_in(tmp_path, DROPOUT), job_in(tmp_path / "whole", DROPOUT)
    run(unbroken)
    for batches in (1, 6, 10):
        assert run(job, batches).outcome is Outcome.PREEMPTED
    assert run(job).resumed_at == 17
    assert_same(job, unbroken)


def test_a_stop_at_the_very_last_batch_leaves_only_the_update_to_write(job, unbroken):
    assert run(job, STEPS).outcome is Outcome.PREEMPTED
    report = run(job)
    assert report.resumed_at == report.steps == STEPS
    assert_same(job, unbroken)


def test_the_seconds_are_those_of_all_sittings(job):
    first = run_job(job, lambda: stop_after(10), Clock())
    second = run_job(job, lambda: stop_after(None), Clock())
    alone = run_job(msgspec.structs.replace(job, checkpoint=None), lambda: stop_after(14), Clock())
    assert 0 < first.seconds < second.seconds
    assert second.seconds > alone.seconds


def test_a_kept_training_is_its_owner_s_alone(job):
    run(job, 3)
    assert Path(job.checkpoint).stat().st_mode & 0o777 == 0o600


def test_nothing_is_kept_without_a_place_for_it(job, tmp_path):
    assert run(msgspec.structs.replace(job, checkpoint=None), 3).outcome is Outcome.PREEMPTED
    assert {path.name for path in tmp_path.iterdir()} == {"examples"}


def test_examples_that_come_meanwhile_wait_for_the_next_training(job, unbroken, tmp_path):
    run(job, 11)
    np.savez(tmp_path / "examples" / "later.npz", **flowers(40, seed=9).arrays)
    report = run(job)
    assert report.resumed_at == 11
    assert report.examples == result(unbroken)[0].examples
    assert_same(job, unbroken)


# Keeping it now and then


class Killed(BaseException):
    """As `kill -9` would."""


def killed_after(questions: int) -> Stop:
    ask = stop_after(questions)

    def stop() -> bool:
        if ask():
            raise Killed
        return False

    return stop


@pytest.mark.parametrize(("questions", "kept"), [(3, 0), (4, 0), (5, 4), (9, 4), (10, 8), (25, 20)])
def test_a_kill_loses_only_what_came_since_it_was_kept(job, unbroken, questions, kept):
    """One question a batch, and one more each time it was kept."""
    job = msgspec.structs.replace(job, checkpoint_every=4.0)
    with pytest.raises(Killed):
        run_job(job, lambda: killed_after(questions), Clock())
    report = run(job)
    assert report.resumed_at == kept
    assert_same(job, unbroken)


def test_it_is_kept_only_when_stopped_if_so_wanted(job):
    job = msgspec.structs.replace(job, checkpoint_every=0.0)
    with pytest.raises(Killed):
        run_job(job, lambda: killed_after(20), Clock())
    assert not Path(job.checkpoint).exists()


def test_a_stop_just_after_it_was_kept_writes_nothing_again(job):
    """Each time wears the disk."""
    asked = []

    def stop() -> bool:
        asked.append(Path(job.checkpoint).exists())
        return asked[-1]  # true when asked again after it was kept

    report = run_job(msgspec.structs.replace(job, checkpoint_every=3.0), lambda: stop, Clock())
    written = Path(job.checkpoint).stat()
    assert report.outcome is Outcome.PREEMPTED
    assert asked.count(True) == 1
    resumed = run_job(job, lambda: lambda: True, Clock())
    assert resumed.resumed_at == report.steps
    assert Path(job.checkpoint).stat().st_ino != written.st_ino


# A disk that is full


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Files cannot grow further, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_kept_is_said_and_what_was_kept_stays(job, unbroken):
    run(job, 5)
    with no_file_above(100):
        report = run(job, 5)
    assert report.outcome is Outcome.PREEMPTED
    assert "the training cannot be kept" in report.detail
    assert report.steps == 10
    after = run(job)
    assert after.resumed_at == 5
    assert_same(job, unbroken)


def test_a_full_disk_stops_no_training(job, unbroken):
    gone = msgspec.structs.replace(job, checkpoint="/nowhere/kept", checkpoint_every=1.0)
    assert run_job(gone, lambda: stop_after(None), Clock()).outcome is Outcome.DONE
    assert_same(gone, unbroken)


# Files that cannot be gone on with


def assert_starts_anew(job: Job, unbroken: Job, why: str) -> None:
    report = run(job)
    assert report.outcome is Outcome.DONE
    assert report.resumed_at == 0
    assert why in report.restarted
    assert_same(job, unbroken)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(at: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[at] ^= 1
        return bytes(changed)

    return flip


def told_otherwise(data: bytes) -> bytes:
    assert data.count(b'\\"position\\":50') == 1
    return data.replace(b'\\"position\\":50', b'\\"position\\":60')


DAMAGE = {
    "empty": (lambda data: b"", "truncated"),
    "cut": (cut, "truncated"),
    "longer": (lambda data: data + b"\0", "after the last tensor"),
    "much longer": (lambda data: data + b"\0" * (1 << 20), "at most"),
    "other": (lambda data: b"hello" * 500, "too_large"),
    "a bit of a weight": (flipped(-3), "it is damaged"),
    "another position": (told_otherwise, "it is damaged"),
    "a model": (lambda data: (FLOWERS / CHECKPOINT_NAME).read_bytes(), "no kept training"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_dropped(job, unbroken, damage):
    change, why = DAMAGE[damage]
    run(job, 5)
    path = Path(job.checkpoint)
    path.write_bytes(change(path.read_bytes()))
    assert_starts_anew(job, unbroken, why)
    assert not path.exists()


@given(data=st.data())
def test_no_cut_and_no_flipped_bit_is_gone_on_with(data):
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        job, unbroken = job_in(Path(first), LINE), job_in(Path(second), LINE)
        run(unbroken)
        run(job, 3)
        kept = Path(job.checkpoint).read_bytes()
        at = data.draw(st.integers(0, len(kept) - 1))
        damaged = kept[:at] if data.draw(st.booleans()) else flipped(at)(kept)
        Path(job.checkpoint).write_bytes(damaged)
        assert_starts_anew(job, unbroken, "")


@pytest.mark.parametrize("kind", ["folder", "full folder", "pipe", "link to nothing", "null"])
def test_what_is_no_file_is_no_training(job, unbroken, kind):
    path = Path(job.checkpoint)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to("gone")
    elif kind == "null":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
        if kind == "full folder":
            (path / "something").touch()
    assert_starts_anew(job, unbroken, "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "a-2"),
        ("seed", 8),
        ("plan", "sha256:" + "1e" * 32),
        ("model", "sha256:" + "1e" * 32),
    ],
)
def test_a_training_of_another_assignment_is_dropped(job, tmp_path_factory, field, value):
    run(job, 5)
    other = msgspec.structs.replace(job.assignment, **{field: value})
    job = msgspec.structs.replace(job, assignment=other)
    alone = job_in(tmp_path_factory.mktemp("alone"))
    alone = msgspec.structs.replace(alone, assignment=other)
    run(alone)
    assert_starts_anew(job, alone, "it belongs to")


def test_a_training_of_another_plan_is_dropped(tmp_path, tmp_path_factory):
    run(job_in(tmp_path, FLOWERS), 5)
    alone = job_in(tmp_path_factory.mktemp("alone"), ADAMW)
    run(alone)
    assert_starts_anew(job_in(tmp_path, ADAMW), alone, "tensors missing")


def test_a_training_that_another_numpy_shuffled_is_dropped(job, unbroken):
    """Drawn by another one, an epoch could see an example twice."""
    run(job, 5)
    path = Path(job.checkpoint)
    manifest = manifest_of(FLOWERS)
    schema = {
        t.name: tensors.Spec(np.dtype("<f4"), t.shape)
        for t in (*manifest.parameters, *manifest.state)
    }
    found, notes = tensors.read(path.read_bytes(), schema, 1 << 14)
    assert f'"numpy":"{np.__version__}"' in notes["training"]
    notes["training"] = notes["training"].replace(np.__version__, "1.0.0")
    path.write_bytes(tensors.write(found, notes | {"digest": digest(notes["training"], found)}))
    assert_starts_anew(job, unbroken, "it belongs to numpy 1.0.0")


def digest(text: str, found: dict[str, np.ndarray]) -> str:
    """As the module's description has it: of the JSON and of the tensors by name."""
    whole = text.encode() + b"".join(found[name].tobytes() for name in sorted(found))
    return blake2b(whole, digest_size=32).hexdigest()


@pytest.mark.parametrize("change", ["a value", "one less", "another order"])
def test_a_training_over_other_examples_is_dropped(job, tmp_path, tmp_path_factory, change):
    """A row that its owner deleted must leave no trace."""
    run(job, 5)
    arrays = flowers().arrays
    if change == "a value":
        arrays["x"][3] += 0.5
    elif change == "one less":
        arrays = {name: array[:-9] for name, array in arrays.items()}
    else:
        arrays = {name: array[::-1] for name, array in arrays.items()}
    saved(tmp_path / "examples", Examples(arrays))
    folder = tmp_path_factory.mktemp("alone")
    alone = job_in(folder)
    saved(folder / "examples", Examples(arrays))
    run(alone)
    assert_starts_anew(job, alone, "example")
