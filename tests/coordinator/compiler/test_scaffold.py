"""The plan of a task with control variates: what it takes, and that no other plan changed."""

from pathlib import Path

import numpy as np
import pytest

from coordinator.compiler.errors import CompileError
from coordinator.plans import contradictions
from coordinator.taskfile import TaskFile
from edge_agent.session import Trainer
from tests.coordinator.compiler.building import (
    FLOAT,
    compiled,
    dense,
    model,
    node,
    session,
    task,
    weights,
)
from tests.coordinator.compiler.stepping import examples, first, trainer_of
from wire import tensors
from wire.plan import parse_manifest

TABLE = '[aggregation]\nkind = "scaffold"\ndevices = 10\nmax_steps = 100'


def scaffold(**keys: object) -> TaskFile:
    return task(rest=TABLE, **keys)  # type: ignore[arg-type]


def test_control_variates_travel_with_the_model_and_begin_at_zero(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, scaffold())
    manifest = parse_manifest(plan.manifest.to_bytes())
    named = {p.name: p.shape for p in manifest.parameters}
    assert {p.name: p.shape for p in manifest.given} == {
        f"control/{name}": shape for name, shape in named.items()
    }
    begun = first(plan)
    assert len(plan.initial) <= manifest.checkpoint_limit
    assert all(not begun[p.name].any() for p in manifest.given)
    assert manifest.carries == {f"own/{name}": f"gradient/{name}" for name in named}


def test_what_does_not_change_does_not_come_out(tmp_path: Path) -> None:
    compiled(dense(), tmp_path, scaffold())
    outputs = {o.name for o in session(tmp_path / "plan" / "train.onnx").get_outputs()}
    assert {"next/w1", "next/gradient/w1"} < outputs
    assert not [name for name in outputs if "control" in name or "own" in name]


def test_the_model_that_programs_open_knows_nothing_of_them(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, scaffold())
    assert b"control" not in plan.files["model.onnx"] + plan.files["evaluate.onnx"]
    assert set(tensors.offsets(plan.initial)) > {"control/w1", "w1"}
    x = np.ones((2, 4), np.float32)
    (found,) = session(tmp_path / "plan" / "model.onnx").run(None, {"x": x})
    assert np.isfinite(found).all()


def test_a_step_is_corrected_by_both(tmp_path: Path) -> None:
    """w - rate g + own + control."""
    plan = compiled(dense(), tmp_path, scaffold())
    plain = trainer_of(plan, tmp_path)
    plain.step(examples())
    rng = np.random.default_rng(1)
    controls = {
        p.name: rng.normal(size=p.shape).astype(np.float32) for p in plan.manifest.given or ()
    }
    own = {
        name: rng.normal(size=plain.state()[name].shape).astype(np.float32)
        for name in plan.manifest.carries
    }
    begun = first(plan) | controls
    there = Trainer(plan.manifest, tmp_path / "plan", begun, threads=1, carried=own)
    there.step(examples())
    for name, change in plain.delta().items():
        expected = change + controls[f"control/{name}"] + own[f"own/{name}"]
        np.testing.assert_allclose(there.delta()[name], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(there.state()[f"gradient/{name}"], -change, atol=1e-6)


def test_the_mean_is_over_all_steps(tmp_path: Path) -> None:
    """By plain SGD each change is rate times the gradient, so that their mean is all in all."""
    plan = compiled(dense(), tmp_path, scaffold())
    trainer = trainer_of(plan, tmp_path)
    for start in range(0, 20, 4):
        trainer.step(examples().where(np.arange(start, start + 4)))
    for name, change in trainer.delta().items():
        found = trainer.state()[f"gradient/{name}"]
        np.testing.assert_allclose(found, -change / 5, rtol=1e-4, atol=1e-6)


def test_without_it_no_plan_knows_of_it(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    assert b"given" not in plan.manifest.to_bytes()
    assert b"carried" not in plan.manifest.to_bytes()
    assert plan.manifest.checkpoint == plan.manifest.parameters
    assert plan.manifest.carries == {}


def test_frozen_weights_have_none(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, scaffold(frozen=["w1", "b*"]))
    assert [p.name for p in plan.manifest.given or ()] == ["control/w2"]


def test_a_weight_may_be_called_control(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "h control/w", "out")]
    named = weights(w=(4, 4), c=(4, 3))
    values = dict(zip(("w", "control/w"), named.values(), strict=True))
    plan = compiled(model(nodes, values), tmp_path, scaffold())
    assert [p.name for p in plan.manifest.parameters] == ["w", "weight/control/w"]
    trainer = trainer_of(plan, tmp_path)
    assert np.isfinite(trainer.step(examples()))


def test_an_input_may_not(tmp_path: Path) -> None:
    nodes = [node("MatMul", "control/x w", "out")]
    made = model(nodes, weights(w=(4, 3)), inputs={"control/x": (FLOAT, ("N", 4))})
    with pytest.raises(CompileError, match="input 'control/x' has a name that plans use"):
        compiled(made, tmp_path, scaffold())


def test_a_plan_of_another_kind_of_aggregation_is_refused(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    with_them = compiled(dense(), tmp_path / "with", scaffold()).manifest
    without = compiled(dense(), tmp_path / "without").manifest
    assert contradictions(scaffold(), with_them) == contradictions(task(), without) == []
    assert contradictions(scaffold(), without) == [
        "aggregation.kind is scaffold, and the plan corrects no gradients"
    ]
    assert contradictions(task(), with_them) == [
        "aggregation.kind is fedavg, and the plan corrects gradients"
    ]
