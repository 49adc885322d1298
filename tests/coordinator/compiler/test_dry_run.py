"""A plan is trained for a moment before a fleet is: what is said of it, and why."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from coordinator.compiler import dry_run as module
from coordinator.compiler.drawing import draws_of, index_bounds
from coordinator.compiler.dry_run import dry_run, verdict
from coordinator.compiler.dry_run_child import Attempt, Job, Report, Tried
from coordinator.compiler.errors import CompileError
from coordinator.compiler.folder import write_plan_dir
from coordinator.compiler.graph import FLOAT32, Node, TensorType
from coordinator.compiler.made_up import Draw, examples
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.sizes import Sized, sized
from tests.coordinator.compiler.building import compiled, dense, model, node, task, weights
from wire.digest import digest_of
from wire.plan import PlanFile

FALLING, RISING = (3.0, 2.0, 1.0, 0.5), (1.0, 2.0, 3.0, 4.0)
FLAT = (1.0, 1.0, 1.0, 1.0)


def tried(losses: tuple[float | None, ...], finite: bool = True, **attempt: float) -> Tried:
    return Tried(attempt=Attempt(**attempt), losses=losses, finite=finite)


def with_train(plan: CompiledPlan, data: bytes) -> CompiledPlan:
    """The plan with another training graph."""
    files = plan.files | {"train.onnx": data}
    listed = plan.manifest.files | {"train.onnx": PlanFile(digest=digest_of(data), bytes=len(data))}
    manifest = msgspec.structs.replace(plan.manifest, files=listed)
    return CompiledPlan(manifest, files, plan.initial)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("optimizer", [
    'kind = "sgd"\nlearning_rate = 0.1',
    'kind = "sgd"\nlearning_rate = 0.05\nmomentum = 0.9',
    'kind = "adamw"',
])  # fmt: skip
def test_a_sound_plan_passes(loss: str, optimizer: str, tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(loss, optimizer, proximal=0.1))
    assert dry_run(plan) == ()


def test_the_same_plan_has_the_same_losses(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    folder = tmp_path / "plan"
    job = module._job(plan, folder, (Attempt(),))
    first, second = (module._run(job) for _ in range(2))
    assert isinstance(first, Report)
    assert first == second
    assert len(first.tried[0].losses) == module.STEPS


def test_weights_in_the_frozen_file_are_found(tmp_path: Path) -> None:
    plan = compiled(dense(hidden=400), tmp_path, task(frozen=["w1"]))
    assert "frozen.bin" in plan.files
    assert dry_run(plan) == ()


def test_data_a_tenth_as_large_may_do(tmp_path: Path) -> None:
    """A learning rate that suits pixels from 0 to 1 diverges on 3000 numbers of deviation 1."""
    made = model([node("Gemm", "x w", "out")], weights(w=(3000, 1)), ("N", 3000))
    plan = compiled(made, tmp_path, task("mse", 'kind = "sgd"\nlearning_rate = 0.01'))
    (warning,) = dry_run(plan)
    assert "on data a tenth as large the loss falls" in warning


def test_a_statistic_need_not_fall(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(optimizer='kind = "sgd"\nlearning_rate = 1e-12'))
    assert dry_run(plan, learns=False) == ()
    with pytest.raises(CompileError, match="too low"):
        dry_run(plan)


def test_a_graph_that_the_runtime_refuses(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    proto = onnx.load_model_from_string(plan.files["train.onnx"])
    gemm = next(n for n in proto.graph.node if n.op_type == "Gemm")
    gemm.op_type = "NoSuchOperator"
    changed, folder = with_train(plan, proto.SerializeToString()), tmp_path / "changed"
    write_plan_dir(changed, folder)
    report = module._run(module._job(changed, folder, (Attempt(),)))
    with pytest.raises(CompileError, match=r"ONNX Runtime cannot run this plan.*NoSuchOperator"):
        verdict(report, 0.1, learns=True)


@pytest.mark.parametrize(("attempts", "words"), [
    ([tried(RISING), tried(FALLING, scale=0.1)], None),
    ([tried(RISING), tried(RISING, scale=0.1), tried(FALLING, rate=0.1)], "is too high"),
    ([tried((1.0, None), rate=1.0), tried((1.0, None), scale=0.1), tried(RISING, rate=0.1),
      tried(FALLING, rate=0.01)], "no longer a finite number after 1 steps.*is too high"),
    ([tried((None,)), tried((None,), scale=0.1), tried((None,), rate=0.1)],
     "not a finite number at the first step.*division by zero"),
    ([tried(FLAT), tried(FLAT, scale=0.1), tried(FLAT, rate=0.1), tried(FALLING, rate=1e3)],
     "is too low"),
    ([tried(FLAT), tried(FLAT, scale=0.1), tried(FLAT, rate=1e3)], "does not learn"),
    ([tried(FALLING, finite=False)], "a weight is no longer a finite number"),
])  # fmt: skip
def test_verdicts(attempts: list[Tried], words: str | None) -> None:
    report = Report(tried=tuple(attempts))
    if words is None:
        (warning,) = verdict(report, 0.5, learns=True)
        assert "Scale the examples" in warning
        return
    with pytest.raises(CompileError, match=words) as caught:
        verdict(report, 0.5, learns=True)
    assert "--no-dry-run" in str(caught.value)


@pytest.mark.parametrize(("rate", "words"), [
    ("1e-30", "with 1e\\+28 times the learning rate it falls: .* = 1e-30 is too low"),
    ("1e+30", "with 1e-32 times the learning rate the loss falls: .* = 1e\\+30 is too high"),
])  # fmt: skip
def test_a_learning_rate_far_from_any_use(rate: str, words: str, tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(optimizer=f'kind = "sgd"\nlearning_rate = {rate}'))
    with pytest.raises(CompileError, match=words):
        dry_run(plan)


def test_no_room_for_temporary_files_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = compiled(dense(), tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "model.onnx"))
    (warning,) = dry_run(plan)
    assert warning.startswith("no dry run: ")
    assert "model.onnx" in warning


@pytest.mark.parametrize(("losses", "fell"), [
    (FALLING, True),
    (RISING, False),
    (FLAT, False),
    ((0.0, 0.0), True),
    ((1.0, 0.9), True),
    ((1.0, 1.2, 0.7, 0.5, 0.6, 0.55), True),
    ((1.0, None), False),
])  # fmt: skip
def test_when_a_loss_falls(losses: tuple[float | None, ...], fell: bool) -> None:
    assert tried(losses).fell is fell
    assert not tried(losses, finite=False).fell


def test_no_report_is_a_warning_and_no_verdict() -> None:
    assert verdict("two steps take long", 0.1, learns=True) == ("no dry run: two steps take long",)


def test_indices_stay_in_their_tables(tmp_path: Path) -> None:
    """An integer input that picks rows of a table is drawn below the number of rows."""
    nodes = (
        Node("Cast", ("word",), ("i",), {"to": 7}),
        Node("Unsqueeze", ("i", "one"), ("j",)),
        Node("Gather", ("table", "j"), ("row",), {"axis": 0}),
    )
    types = {"table": TensorType(FLOAT32, (17, 4))}
    graph = Sized(nodes, ("word",), ("row",), {}, frozenset(), types)
    assert index_bounds(graph, "word") == [17]
    assert index_bounds(graph, "table") == []


def test_inputs_are_drawn_by_what_they_are(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task("mse"))
    graph = Sized((), (), (), {}, frozenset(), {})
    x, target = draws_of(plan.manifest, graph, ["x"])
    assert (x.name, x.below) == ("x", None)
    assert (target.name, target.below) == ("target", 2)
    classified = compiled(dense(classes=5), tmp_path)
    assert draws_of(classified.manifest, graph, ["x"])[1].below == 5


def test_a_run_that_nobody_waits_for_ends_and_leaves_nothing(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    draws = tuple(draws_of(plan.manifest, sized(plan.files["train.onnx"], 2), ["x"]))
    job = Job(
        folder=str(tmp_path / "plan"),
        draws=draws,
        attempts=(Attempt(),),
        batch=2,
        steps=1 << 40,
        seconds=3600.0,
        memory=8 << 30,
        parent=os.getppid(),  # as if ours had been the child of another, which is gone
    )
    command = [sys.executable, "-P", "-m", "coordinator.compiler.dry_run_child"]
    done = subprocess.run(
        command, input=msgspec.json.encode(job), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert not (tmp_path / "plan").exists()


def test_made_up_examples() -> None:
    draws = [
        Draw(name="x", dtype="float32", shape=(3,)),
        Draw(name="label", dtype="int64", shape=(), below=10),
        Draw(name="mask", dtype="bool", shape=(4,), below=2),
    ]
    found, again = (examples(draws, 200, 1.0) for _ in range(2))
    assert {n: (a.dtype.name, a.shape) for n, a in found.items()} == {
        "x": ("float32", (200, 3)),
        "label": ("int64", (200,)),
        "mask": ("bool", (200, 4)),
    }
    assert set(found["label"]) == set(range(10))
    assert found["mask"].any(axis=1).all()
    for name, array in found.items():
        np.testing.assert_array_equal(array, again[name])
    np.testing.assert_allclose(examples(draws, 200, 0.1)["x"], found["x"] / 10, rtol=1e-5)
