"""Optimisers, clipping and schedules do what PyTorch's do, run by the device's own code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from coordinator.compiler import flat
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Graph, Node
from coordinator.compiler.state import check_in_place
from coordinator.plans import contradictions
from edge_agent.examples import Examples
from edge_agent.session import Trainer, train
from tests.coordinator.compiler.building import compiled, dense, model, node, task, weights
from tests.coordinator.compiler.golden import CASES, RECORD, STEPS
from wire import checkpoint
from wire.checkpoint import Weights

GOLDEN = json.loads(RECORD.read_text())
FIRST = {
    n: np.asarray(v, np.float32) for n, v in GOLDEN["first"].items() if n not in ("x", "label")
}
BATCH = Examples(
    {
        "x": np.asarray(GOLDEN["first"]["x"], np.float32),
        "label": np.asarray(GOLDEN["first"]["label"], np.int64),
    }
)


def toml(section: dict[str, Any]) -> str:
    """A table's lines, tables in it written inline."""

    def value(of: Any) -> str:
        if isinstance(of, dict):
            return "{" + ", ".join(f"{k} = {value(v)}" for k, v in of.items()) + "}"
        return json.dumps(of)

    return "\n".join(f"{k} = {value(v)}" for k, v in section.items())


def trainer_of(
    case: dict[str, Any], folder: Path, made: onnx.ModelProto | None = None, **more: Any
) -> Trainer:
    """A trainer of `dense` with the recorded weights."""
    section = {k: v for k, v in case.items() if k != "proximal"}
    spec = task(optimizer=toml(section), proximal=case.get("proximal", 0.0), **more)
    plan = compiled(made or dense(), folder, spec)
    assert contradictions(spec, plan.manifest) == []
    first = FIRST if made is None else checkpoint.read(plan.initial, plan.manifest.parameters)
    trainer = Trainer(plan.manifest, folder / "plan", first, threads=1)
    trainer.manifest = plan.manifest  # type: ignore[attr-defined]
    return trainer


@pytest.mark.parametrize("name", CASES)
def test_as_torch(name: str, tmp_path: Path) -> None:
    trainer = trainer_of(CASES[name], tmp_path)
    expected = GOLDEN["cases"][name]
    for number in range(STEPS):
        rate = trainer.manifest.rate(0, number, STEPS)  # type: ignore[attr-defined]
        assert rate == pytest.approx(expected["rates"][number], rel=1e-12)
        trainer.set_rate(rate)
        trainer.step(BATCH)
    for weight, found in trainer.weights().items():
        wanted = np.asarray(expected["weights"][weight])
        largest = np.abs(wanted).max()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * largest)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "rmsprop", "adagrad"])
def test_small_weights_that_share_their_operators_take_the_same_steps(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Weights] = []
    for small in (flat.SMALL, 0, 12):  # all together, none, the biases and w2
        monkeypatch.setattr(flat, "SMALL", small)
        folder = tmp_path / str(small)
        folder.mkdir()
        trainer = trainer_of({"kind": kind, "learning_rate": 0.01}, folder)
        for _ in range(3):
            trainer.step(BATCH)
        found.append(trainer.weights())
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-7)


def test_a_norm_below_the_limit_is_left_alone(tmp_path: Path) -> None:
    found = []
    for name, clip in (("plain", {}), ("clipped", {"clip_norm": 1e6})):
        (tmp_path / name).mkdir()
        trainer = trainer_of({"kind": "sgd", "learning_rate": 0.3} | clip, tmp_path / name)
        trainer.step(BATCH)
        found.append(trainer.delta())
    for weight, change in found[0].items():
        np.testing.assert_allclose(found[1][weight], change, rtol=1e-5, atol=1e-7)


def test_the_first_step_of_clipped_sgd_is_as_long_as_the_limit_says(tmp_path: Path) -> None:
    trainer = trainer_of({"kind": "sgd", "learning_rate": 0.5, "clip_norm": 0.01}, tmp_path)
    trainer.step(BATCH)
    length = np.sqrt(sum(float((d**2).sum()) for d in trainer.delta().values()))
    assert length == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_a_rate_of_zero_moves_nothing(tmp_path: Path) -> None:
    for name, case in {"sgd clip": CASES["sgd clip"], "adamw": CASES["adamw"]}.items():
        (tmp_path / name).mkdir()
        trainer = trainer_of(case, tmp_path / name)
        trainer.set_rate(0.0)
        trainer.step(BATCH)
        assert not any(change.any() for change in trainer.delta().values())


def test_a_round_s_rates_are_those_of_its_steps_and_go_on_after_a_stop(tmp_path: Path) -> None:
    schedule = {"kind": "linear", "over": "steps", "warmup": 2}
    case = {"kind": "sgd", "learning_rate": 0.4, "momentum": 0.5, "schedule": schedule}
    rng = np.random.default_rng(1)
    few = Examples({"x": rng.normal(size=(25, 4)).astype("f4"), "label": rng.integers(0, 3, 25)})
    trainer = trainer_of(case, tmp_path, rest="")
    given: list[float] = []
    trainer.set_rate = given.append  # type: ignore[method-assign]
    manifest = trainer.manifest  # type: ignore[attr-defined]
    train(trainer, manifest, few, np.random.default_rng(0), stop=lambda: False, version=7)
    # 3 steps of 10 examples; the first is set before the round begins, too
    assert given == pytest.approx([0.4 / 3, 0.4 / 3, 0.4 * 2 / 3, 0.4])


def test_the_task_s_rounds_are_a_schedule_s_length(tmp_path: Path) -> None:
    schedule = {"kind": "linear", "warmup": 2, "floor": 0.25}
    case = {"kind": "sgd", "learning_rate": 0.4, "momentum": 0.5, "schedule": schedule}
    manifest = trainer_of(case, tmp_path, rest="rounds = 12").manifest  # type: ignore[attr-defined]
    rates = [manifest.rate(version, 3, 9) for version in (0, 1, 2, 7, 12, 40)]
    assert rates == pytest.approx([0.4 / 3, 0.8 / 3, 0.4, 0.25, 0.1, 0.1])


def test_plans_without_a_schedule_do_not_speak_of_one(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    assert b"schedule" not in plan.manifest.to_bytes()


def test_frozen_weights_cost_nothing(tmp_path: Path) -> None:
    """No gradient of theirs is computed, and none by what comes before the first that is trained:
    three products forward, and one a gradient that a trained weight needs."""
    nodes = [node("MatMul", "x w0", "a"), node("Relu", "a", "b"), node("MatMul", "b w1", "c")]
    nodes += [node("Tanh", "c", "d"), node("MatMul", "d w2", "out")]
    made = model(nodes, weights(w0=(4, 4), w1=(4, 4), w2=(4, 3)))
    # by weight: dW0 needs dB and dD, dW1 needs dD; x never has a gradient
    expected = {"": 3 + 3 + 2, "w0": 3 + 2 + 1, "w[01]": 3 + 1, "w1": 3 + 2 + 2, "w2": 3 + 2 + 2}
    for number, (pattern, products) in enumerate(expected.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        compiled(made, folder, task(frozen=[pattern] if pattern else []))
        graph = onnx.load(folder / "plan" / "train.onnx").graph
        ops = [n.op_type for n in graph.node]
        assert sum(op in ("MatMul", "Gemm") for op in ops) == products, (pattern, ops)


def test_state_that_is_read_too_late_is_a_bug() -> None:
    graph = Graph([Node("Add", ("g", "now"), ("then",)), Node("Mul", ("now", "now"), ("late",))])
    with pytest.raises(CompileError, match=r"\['Mul'\] read state that is overwritten"):
        check_in_place(graph, {"now": "then"})
    graph.nodes[1] = Node("Mul", ("then", "then"), ("late",))
    check_in_place(graph, {"now": "then"})
