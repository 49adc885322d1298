"""Plans of statistics: what they are made of, and what can be done with their models."""

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest

from coordinator.compiler.compile import compile_beside, compile_task
from coordinator.compiler.errors import CompileError
from coordinator.compiler.folder import read_plan_dir
from coordinator.plans import contradictions
from edge_agent.handoff import hand_off, weights_of
from edge_agent.keeping import Offer, Why
from edge_agent.models import open_model
from edge_agent.shelf import Shelf
from tests.coordinator.compiler.building import dense, run, session
from tests.coordinator.compiler.building import task as training
from tests.coordinator.compiler.gathering import Array, Gathering, shares_of, task
from tests.coordinator.processes import run as command
from wire import checkpoint
from wire.digest import digest_of

DOCUMENT = Path(__file__).parents[3] / "docs" / "task-file.md"
KMEANS = 'kind = "kmeans"\nshape = [4]\nclusters = 3'
MOMENTS = 'kind = "moments"\nshape = [4]'
EACH = pytest.mark.parametrize("kind", [KMEANS, MOMENTS], ids=["kmeans", "moments"])


def examples(count: int = 60) -> Array:
    return np.random.default_rng(0).normal(3.0, 2.0, size=(count, 4)).astype(np.float32)


@EACH
def test_they_are_compiled_where_the_training_build_is_missing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.capi import _pybind_state

    monkeypatch.delattr(_pybind_state, "GradientGraphBuilder", raising=False)
    with pytest.raises(CompileError, match="training build"):
        compile_task(training(), tmp_path / "model.onnx")
    plan = compile_beside(task(kind), tmp_path)
    assert plan.files.keys() == {"train.onnx", "evaluate.onnx", "model.onnx"}


def test_the_command_compiles_them_and_says_what_updates_cost(tmp_path: Path) -> None:
    np.save(tmp_path / "first.npy", examples()[:3])
    path = tmp_path / "known.toml"
    path.write_text(
        f'name = "known"\n[statistics]\n{KMEANS}\ncentres = "first.npy"\n[round]\ngoal = 3'
    )
    done = command("compile", path, "-o", tmp_path / "plan")
    assert done.returncode == 0, done.stderr
    assert "54 weights" in done.stdout
    assert "updates are coded as float32" in done.stdout
    assert read_plan_dir(tmp_path / "plan").manifest.task == "known"
    (tmp_path / "first.npy").unlink()
    failed = command("compile", path, "-o", tmp_path / "plan")
    assert (failed.returncode, "first.npy: cannot be read" in failed.stderr) == (2, True)
    assert "Traceback" not in failed.stderr


@EACH
def test_the_same_task_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    assert compile_beside(task(kind), tmp_path) == compile_beside(task(kind), tmp_path)
    fleet = Gathering(task(kind), tmp_path)
    assert read_plan_dir(fleet.folder) == fleet.plan


@EACH
def test_they_need_no_new_key_so_that_older_agents_run_them(kind: str, tmp_path: Path) -> None:
    plan = compile_beside(task(kind), tmp_path)
    said = msgspec.json.decode(plan.manifest.to_bytes())
    assert said.keys() == {
        *("batch", "epochs", "files", "format", "inputs", "learning_rate", "metrics", "opset"),
        *("parameters", "state", "task", "tolerance"),
    }
    for data in plan.files.values():
        found = onnx.load_model_from_string(data)
        assert {o.domain for o in found.opset_import} == {""}


@EACH
def test_inputs_and_parameters_may_have_any_name_but_one_of_the_plans_own(
    kind: str, tmp_path: Path
) -> None:
    for name in ("counts", "sums", "step", "x", "température"):
        fleet = Gathering(task(f'{kind}\ninput = "{name}"'), tmp_path)
        fleet.round(shares_of(examples(), 20))
        names = [p.name for p in fleet.manifest.parameters] + [s.name for s in fleet.manifest.state]
        assert name not in names
    taken = "cluster" if kind is KMEANS else "variance"
    for name in ("loss", "next/x", taken):
        with pytest.raises(CompileError, match=f"statistics.input = '{name}'"):
            compile_beside(task(f'{kind}\ninput = "{name}"'), tmp_path)


@EACH
def test_a_device_hands_the_model_to_its_local_programs(kind: str, tmp_path: Path) -> None:
    """It is measured, made complete, adopted and read back, as any other."""
    fleet, x = Gathering(task(kind), tmp_path), examples()
    for version in (1, 2, 3):
        fleet.round(shares_of(x, 20))
        data = checkpoint.write(fleet.weights)
        offer = Offer(
            folder=str(tmp_path / "known"),
            task="known",
            version=version,
            plan=fleet.manifest.digest(),
            model=digest_of(data),
            now="2026-07-01T12:00:00+02:00",
        )
        metrics = {"loss": fleet.measured(x)}
        decision = hand_off(
            *(offer, fleet.folder, fleet.manifest, data, len(x), metrics),
            lambda weights: {"loss": fleet.measured(x, weights)},
        )
        assert decision.why is (Why.FIRST if version == 1 else Why.NOT_WORSE), decision
    shelf = Shelf(tmp_path / "known")
    model = open_model("known", tmp_path).session()
    for name, value in fleet.said(x).items():
        np.testing.assert_array_equal(model.run([name], {"x": x})[0], value)
    back = weights_of(shelf.path.read_bytes(), fleet.plan.files["model.onnx"], fleet.plan.initial)
    assert back == data


def test_a_plan_that_is_not_the_tasks_is_told(tmp_path: Path) -> None:
    plan = compile_beside(task(KMEANS), tmp_path)
    other = task(KMEANS.replace("[4]", "[5]") + '\ninput = "y"', batch=8)
    assert contradictions(other, plan.manifest) == [
        "training.batch is 8 in the task, 7 in the plan",
        "statistics.input is y in the task, x in the plan",
        "statistics.shape is (5,) in the task, (4,) in the plan",
    ]


def standardised(moments: bytes, own: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What the recipe of docs/task-file.md makes: a model that standardises its input by itself."""
    recipe = DOCUMENT.read_text().partition("```python\n")[2].partition("```")[0]
    (folder / "features.onnx").write_bytes(moments)
    onnx.save(own, folder / "model.onnx")
    done = subprocess.run(
        [sys.executable, "-c", recipe.replace("logits", "out")],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return onnx.load(folder / "standardised.onnx")


def test_moments_go_in_front_of_a_model(tmp_path: Path) -> None:
    fleet, x = Gathering(task(MOMENTS), tmp_path), examples()
    for _ in range(2):
        fleet.round(shares_of(x, 20))
    own = dense()
    merged = standardised(fleet.exported(), own, tmp_path)
    onnx.checker.check_model(merged, full_check=True)
    found = run(onnxruntime.InferenceSession(merged.SerializeToString()), {"x": x})
    z = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    expected = run(session(own.SerializeToString()), {"x": z})
    np.testing.assert_allclose(found["out"], expected["out"], rtol=1e-4, atol=1e-5)


def test_a_model_behind_moments_trains(tmp_path: Path) -> None:
    from onnxruntime.capi import _pybind_state

    if not hasattr(_pybind_state, "GradientGraphBuilder"):
        pytest.skip("needs the training build (Python 3.11 or 3.12, not on Linux ARM)")
    fleet, x = Gathering(task(MOMENTS), tmp_path), examples()
    for _ in range(2):
        fleet.round(shares_of(x, 20))
    onnx.save(standardised(fleet.exported(), dense(), tmp_path), tmp_path / "model.onnx")
    spec = training(frozen=["standard/*"])
    plan = compile_beside(spec, tmp_path)
    assert [p.name for p in plan.manifest.parameters] == ["w1", "b1", "w2", "b2"]
    assert [i.name for i in plan.manifest.inputs] == ["x", "label"]
    plain = tmp_path / "plain.onnx"
    onnx.save(dense(), plain)
    other = compile_task(training(), plain)
    z = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    label = np.random.default_rng(1).integers(0, 3, len(x))
    weights = checkpoint.read(plan.initial, plan.manifest.parameters)
    rate = {"learning_rate": np.float32(0.1), "label": label} | weights
    found = run(session(plan.files["train.onnx"]), {"x": x} | rate)
    expected = run(session(other.files["train.onnx"]), {"x": z} | rate)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
