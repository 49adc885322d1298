"""The proximal term: who has one, what it is called, and what it does to a device's drift."""

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from coordinator.compiler.compile import compile_task
from coordinator.compiler.errors import CompileError
from coordinator.compiler.folder import read_plan_dir
from coordinator.compiler.options.training import Training
from coordinator.taskfile import parse
from fleet.digits import PLAN, TASK
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
from tests.coordinator.compiler.stepping import Arrays, examples, first, trainer_of

SGD = 'kind = "sgd"\nlearning_rate = 0.1'
MOMENTUM = SGD + "\nmomentum = 0.5"
ADAMW = 'kind = "adamw"\nlearning_rate = 0.01'
EACH_OPTIMIZER = pytest.mark.parametrize(
    "optimizer", [SGD, MOMENTUM, ADAMW], ids=["sgd", "momentum", "adamw"]
)


def drift(folder: Path, optimizer: str, mu: float, steps: int = 200) -> Arrays:
    """The delta of a device that trains on one batch for so long."""
    folder.mkdir()
    plan = compiled(dense(), folder, task(optimizer=optimizer, proximal=mu))
    trainer = trainer_of(plan, folder)
    for _ in range(steps):
        trainer.step(examples())
    return trainer.delta()


def size(delta: Arrays) -> float:
    return float(np.sqrt(sum((change**2).sum() for change in delta.values())))


@EACH_OPTIMIZER
def test_the_more_it_pulls_the_nearer_a_device_stays(optimizer: str, tmp_path: Path) -> None:
    found = [size(drift(tmp_path / str(mu), optimizer, mu)) for mu in (0.0, 0.1, 1.0, 9.0)]
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < found[0] / 20


def test_a_device_comes_to_rest_where_the_pull_is_as_strong_as_the_gradient(
    tmp_path: Path,
) -> None:
    """There gradient + mu (w - base) = 0, so that plain training from there goes the other way."""
    mu = 2.0
    rest = drift(tmp_path / "pulled", SGD, mu, steps=1000)
    plan = compiled(dense(), tmp_path, task(optimizer=SGD))
    there = {name: weight + rest[name] for name, weight in first(plan).items()}
    trainer = trainer_of(plan, tmp_path, there)
    trainer.step(examples())
    for name, change in trainer.delta().items():
        np.testing.assert_allclose(change, 0.1 * mu * rest[name], rtol=1e-3, atol=1e-6)


@EACH_OPTIMIZER
def test_none_is_the_very_same_plan(optimizer: str, tmp_path: Path) -> None:
    none = task(optimizer=optimizer, proximal=0.0)
    plain = compiled(dense(), tmp_path, none)
    training = msgspec.structs.replace(none.training, proximal=Training().proximal)
    silent = msgspec.structs.replace(none, training=training)
    assert compile_task(silent, tmp_path / "model.onnx") == plain
    assert plain.manifest.bases == {}
    assert b"proximal" not in plain.manifest.to_bytes()
    made = session(tmp_path / "plan" / "train.onnx")
    assert not [i.name for i in made.get_inputs() if i.name.startswith("base/")]


def test_the_plan_that_ships_is_as_it_was(tmp_path: Path) -> None:
    """Plans without the term, and their digests, did not change when it came."""
    text = TASK.read_text()
    assert "proximal" not in text
    again = compiled(onnx.load(TASK.with_name("digits.onnx")), tmp_path, parse(text))
    assert again == read_plan_dir(PLAN)


def test_the_bases_come_after_the_weights_and_have_their_shapes(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(optimizer=MOMENTUM, proximal=0.25))
    assert plan.manifest.mu == 0.25
    inputs = session(tmp_path / "plan" / "train.onnx").get_inputs()
    assert [i.name for i in inputs][6:11] == [
        "base/w1", "base/b1", "base/w2", "base/b2", "velocity/w1",
    ]  # fmt: skip
    shapes = {i.name: tuple(i.shape) for i in inputs}
    for p in plan.manifest.parameters:
        assert shapes[f"base/{p.name}"] == shapes[p.name] == p.shape


def test_frozen_weights_have_no_base(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(frozen=["w1", "b*"], proximal=1.0))
    assert plan.manifest.bases == {"w2": "base/w2"}
    inputs = session(tmp_path / "plan" / "train.onnx").get_inputs()
    assert [i.name for i in inputs if "base/" in i.name] == ["base/w2"]


def awkward() -> onnx.ModelProto:
    """Weights whose names a plan with the term uses itself, and what takes their place."""
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "h base/w", "i")]
    nodes += [node("MatMul", "i weight/base/w", "out")]
    named = weights(w=(4, 4), b=(4, 4), c=(4, 3))
    values = dict(zip(("w", "base/w", "weight/base/w"), named.values(), strict=True))
    return model(nodes, values)


def test_a_weight_may_be_called_base(tmp_path: Path) -> None:
    plain = compiled(awkward(), tmp_path)
    assert [p.name for p in plain.manifest.parameters] == ["w", "base/w", "weight/base/w"]
    plan = compiled(awkward(), tmp_path, task(proximal=1.0))
    assert [p.name for p in plan.manifest.parameters] == ["w", "weight/base/w", "weight/base/w_2"]
    assert np.isfinite(trainer_of(plan, tmp_path).step(examples()))


def test_an_input_may_be_called_base_only_where_there_is_none(tmp_path: Path) -> None:
    nodes = [node("MatMul", "base/x w", "out")]
    made = model(nodes, weights(w=(4, 3)), inputs={"base/x": (FLOAT, ("N", 4))})
    assert compiled(made, tmp_path).manifest.inputs[0].name == "base/x"
    with pytest.raises(CompileError, match="input 'base/x' has a name that plans use themselves"):
        compiled(made, tmp_path, task(proximal=1.0))
