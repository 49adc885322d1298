"""What is otherwise in training is so in train.onnx, and nowhere else."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators import INFERENCE, TRAINING
from tests.coordinator.compiler.building import compiled, dense, model, node, run, session, weights


def operators(path: Path) -> set[str]:
    return {n.op_type for n in onnx.load(path, load_external_data=False).graph.node}


def test_rules_are_for_one_mode_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule's own operators are not rewritten again, but expanded."""

    def sigmoid(emit: Emitter, node: Node) -> list[str]:
        return [emit.op("Sigmoid", emit.op("Tanh", *node.inputs))]

    def doubled(emit: Emitter, node: Node) -> list[str]:
        return [emit.op("Tanh", emit.op("Mul", node.inputs[0], emit.const(2)))]

    monkeypatch.setitem(TRAINING, "Tanh", sigmoid)
    monkeypatch.setitem(INFERENCE, "Tanh", doubled)
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "out")]
    compiled(model(nodes, weights(w=(4, 3))), tmp_path)
    files = {name: operators(tmp_path / "plan" / f"{name}.onnx") for name in
             ("train", "evaluate", "model")}  # fmt: skip
    assert {name for name, found in files.items() if "Sigmoid" in found} == {"train"}
    x = np.ones((2, 4), np.float32)
    out = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    np.testing.assert_allclose(out, np.tanh(2 * x @ weights(w=(4, 3))["w"]), rtol=1e-5)
    assert "Mul" in files["evaluate"]


def test_a_rule_may_leave_a_node_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiled(dense(), tmp_path)
    monkeypatch.setitem(TRAINING, "Relu", lambda emit, node: None)
    monkeypatch.setitem(INFERENCE, "Relu", lambda emit, node: None)
    assert compiled(dense(), tmp_path) == before
