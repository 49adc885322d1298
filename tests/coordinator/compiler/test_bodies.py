"""Operators that nothing is known of, by ONNX's own function bodies."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from coordinator.compiler import bodies
from coordinator.compiler.operators import EXPANSIONS, OPERATORS
from coordinator.compiler.operators.table import BY_BODY
from tests.coordinator.compiler.building import model, node, task, weights
from tests.coordinator.compiler.checking import Gradients, check

Case = tuple[int, onnx.NodeProto, dict[str, Any]]
CASES: dict[str, Case] = {
    "Attention": (
        24,
        node("Attention", "h h x", "y", q_num_heads=2, kv_num_heads=2, is_causal=1),
        {},
    ),
    "CenterCropPad": (21, node("CenterCropPad", "h size", "y", axes=[1]), {"size": [2]}),
    "RMSNormalization": (24, node("RMSNormalization", "h s", "y"), weights(s=(4,))),
    "RotaryEmbedding": (
        23,
        node("RotaryEmbedding", "h cos sin", "y", num_heads=1),
        {n: np.full((1, 3, 2), 0.6, np.float32) for n in ("cos", "sin")},
    ),
    "Shrink": (21, node("Shrink", "h", "y", lambd=0.3, bias=0.1), {}),
    "SwiGLU": (28, node("SwiGLU", "h h", "y"), {}),  # of Swish, which is newer as well
    "Swish": (24, node("Swish", "h", "y"), {}),
}
"""What came after our operator set is written out when the model is read, the rest later."""


@pytest.mark.parametrize("op", BY_BODY)
def test_operators_by_their_bodies(op: str, tmp_path: Path) -> None:
    opset, made, constants = CASES[op]
    assert op not in OPERATORS
    nodes = [node("MatMul", "x w", "h"), made, node("Sin", "y", "out")]
    values = weights(w=(4, 4)) | {n: np.asarray(v) for n, v in constants.items()}
    gradients = Gradients(model(nodes, values, ("N", 3, 4), opset=opset), task("mse"), tmp_path)
    trained = {"w", "s"} & set(values)
    assert set(gradients.problem.weights.values()) >= trained
    check(gradients)


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
