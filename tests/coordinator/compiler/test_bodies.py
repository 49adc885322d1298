"""Operators that nothing is known of, by ONNX's own function bodies."""

from pathlib import Path

import numpy as np
import pytest

from coordinator.compiler import bodies
from coordinator.compiler.operators import EXPANSIONS, OPERATORS
from tests.coordinator.compiler.building import model, node, task, weights
from tests.coordinator.compiler.checking import Gradients
from tests.coordinator.compiler.test_gradients import check


@pytest.mark.parametrize("op", ["Swish", "RMSNormalization"])
def test_newer_operators(op: str, tmp_path: Path) -> None:
    """What came after our operator set is written out when the model is read."""
    inputs = "h s" if op == "RMSNormalization" else "h"
    nodes = [node("MatMul", "x w", "h"), node(op, inputs, "y"), node("Sin", "y", "out")]
    shapes = {"w": (4, 4), "s": (4,)} if op == "RMSNormalization" else {"w": (4, 4)}
    made = model(nodes, weights(**shapes), ("N", 3, 4), opset=24)
    gradients = Gradients(made, task("mse"), tmp_path)
    assert sorted(gradients.problem.weights.values()) == sorted(shapes)
    check(gradients)


def test_an_operator_by_its_body(tmp_path: Path) -> None:
    """Shrink has neither a gradient nor an expansion here."""
    assert "Shrink" not in OPERATORS
    nodes = [node("MatMul", "x w", "h"), node("Shrink", "h", "out", lambd=0.3, bias=0.1)]
    check(Gradients(model(nodes, weights(w=(4, 4)), opset=21), task("mse"), tmp_path))


@pytest.mark.parametrize("op", ["Elu", "Selu", "Celu", "HardSwish", "Mish", "Softsign", "Softplus",
                                "HardSigmoid", "ThresholdedRelu", "Gelu", "LeakyRelu"])  # fmt: skip
def test_bodies_and_our_own_gradients_agree(
    op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these has a gradient of ours, and a body: as the one or as the other."""
    assert bodies.has_body(op)
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node(op, "t", "out")]
    made = model(nodes, weights(w=(4, 4)), ("N", 4), opset=21)
    ours = Gradients(made, task("mse"), tmp_path)
    examples = ours.examples(5)
    expected = ours.lowered(examples)["w"]
    monkeypatch.delitem(OPERATORS, op)
    monkeypatch.delitem(EXPANSIONS, op, raising=False)
    written_out = Gradients(made, task("mse"), tmp_path)
    assert op not in {n.op for n in written_out.raw.nodes}
    np.testing.assert_allclose(written_out.lowered(examples)["w"], expected, rtol=1e-4, atol=1e-6)
