"""skl2onnx's operators in standard ones: the same outputs, and weights that can be trained."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from coordinator.compiler import classical
from coordinator.compiler import model as models
from coordinator.compiler.errors import CompileError
from coordinator.compiler.problem import pose
from tests.coordinator.compiler.building import FLOAT, INT64, run, session, task

FILES = sorted((Path(__file__).parent / "exported" / "sklearn").glob("*.onnx"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_same_outputs(path: Path) -> None:
    before, after = onnx.load(path), classical.standard(onnx.load(path))
    assert not any(node.domain for node in after.graph.node)
    onnx.checker.check_model(after, full_check=True)
    x = np.random.default_rng(1).normal(size=(50, 6)).astype(np.float32)
    outputs = [o.name for o in before.graph.output]
    assert [o.name for o in after.graph.output] == outputs
    feeds = {"X": x}
    # The reference knows no tables; this runtime knows no operator set newer than 21.
    tables = any(node.op_type == "ZipMap" for node in before.graph.node)
    expected = (
        list(run(session(before.SerializeToString()), feeds).values())
        if tables
        else ReferenceEvaluator(before).run(None, feeds)
    )
    found = ReferenceEvaluator(after).run(None, feeds)
    for new, value in zip(found, expected, strict=True):
        if isinstance(value, list):  # a table of probabilities, for each example
            value = np.array([list(row.values()) for row in value], np.float32)
        np.testing.assert_allclose(new, value, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_weights_are_trained(path: Path) -> None:
    loaded = models.load(path)
    output = next(name for name in loaded.outputs if "label" not in name)
    posed = pose(task("mse", more=f'output = "{output}"'), loaded)
    layers = 2 if path.stem.startswith("mlp") else 1
    assert len(posed.weights) == 2 * layers


def linear(**attributes: object) -> onnx.ModelProto:
    """A classifier of three classes on four features."""
    given = {"coefficients": [0.5] * 12, "intercepts": [0.0] * 3, **attributes}
    node = helper.make_node(
        "LinearClassifier", ["x"], ["label", "scores"], "clf", domain="ai.onnx.ml", **given
    )
    graph = helper.make_graph(
        [node],
        "model",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 4])],
        [
            helper.make_tensor_value_info("label", INT64, ["N"]),
            helper.make_tensor_value_info("scores", FLOAT, ["N", 3]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_names_of_classes_are_dropped() -> None:
    made = classical.standard(linear(classlabels_strings=["a", "b", "c"]))
    assert [o.name for o in made.graph.output] == ["scores"]


def test_coefficients_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"node 'clf'.*12 coefficients and 3 .* for 5 outputs"):
        classical.standard(linear(classlabels_ints=[0, 1, 2, 3, 4]))


def test_what_has_no_standard_form_stays(tmp_path: Path) -> None:
    onnx.save(linear(classlabels_ints=[0, 1, 2], post_transform="PROBIT"), tmp_path / "m.onnx")
    with pytest.raises(CompileError, match=r"ai\.onnx\.ml\.LinearClassifier \(node 'clf'\)"):
        models.load(tmp_path / "m.onnx")
