"""Every mistake a user can make is one `CompileError` that says what and what to do."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from coordinator.compiler import gradient
from coordinator.compiler.compile import compile_task
from coordinator.compiler.errors import CompileError
from tests.coordinator.compiler.building import (
    FLOAT,
    compiled,
    dense,
    model,
    node,
    read_by,
    refused,
    task,
    weights,
)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="there is no such file"):
        compile_task(task(), tmp_path / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip file", b"\x00" * 64, b"hello, world"])
def test_not_onnx(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(CompileError, match="not an ONNX"):
        compile_task(task(), path)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="cannot be read"):
        compile_task(task(), tmp_path)


def test_invalid_model(tmp_path: Path) -> None:
    made = dense()
    made.graph.node[0].input[0] = "nothing"
    refused(made, tmp_path, task(), "not a valid ONNX model", "nothing")


def test_external_data_missing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(dense(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(CompileError, match="weights are in a file beside it"):
        compile_task(task(), path)


def test_unsupported_operator(tmp_path: Path) -> None:
    made = model(
        [node("Gemm", "x w b", "h"), node("Acosh", "h", "e", "mine"), node("Tanh", "e", "out")],
        weights(w=(4, 3), b=(3,)),
    )
    refused(
        made, tmp_path, task(), "operator Acosh", "node 'mine'", "Supported: Abs, Add, AveragePool"
    )


def test_unsupported_operator_without_a_name(tmp_path: Path) -> None:
    made = model([node("Gemm", "x w b", "h"), node("Acosh", "h", "out")], weights(w=(4, 3), b=(3,)))
    refused(made, tmp_path, task(), "operator Acosh", "the node that makes 'out'")


def test_a_product_along_an_axis(tmp_path: Path) -> None:
    made = model(
        [node("Gemm", "x w b", "h"), node("ReduceProd", "h", "out", axes=[1])],
        weights(w=(4, 3), b=(3,)),
    )
    refused(made, tmp_path, task(loss="mse"), "operator ReduceProd", "the node that makes 'out'")


def test_a_norm_without_any_axis(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x w b", "h"), node("ReduceL2", "h", "out", noop_with_empty_axes=1)]
    made = model(nodes, weights(w=(4, 3), b=(3,)), opset=21)
    refused(made, tmp_path, task(loss="mse"), "ReduceL2", "without any axis")


def test_a_weight_that_only_rounding_leads_from(tmp_path: Path) -> None:
    nodes = [
        node("Gemm", "x w b", "h"),
        node("Round", "h", "r"),
        node("MatMul", "r v", "out"),
    ]
    made = model(nodes, weights(w=(4, 3), b=(3,), v=(3, 3)))
    refused(made, tmp_path, task(), "no gradient reaches weight 'w'", "model.frozen")
    assert compiled(made, tmp_path, task(frozen=["w", "b"])).manifest.parameters[0].name == "v"


def test_operator_that_is_not_standard(tmp_path: Path) -> None:
    made = dense()
    made.graph.node[1].CopyFrom(helper.make_node("Gelu", ["h"], ["r"], "g", domain="com.microsoft"))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refused(made, tmp_path, task(), "com.microsoft.Gelu", "node 'g'", "without extensions")


def test_branches(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, FLOAT, ["N", 3])
        return helper.make_graph([node("Identity", "h", name)], name, [], [out])

    made = model(
        [
            node("Gemm", "x w b", "h"),
            node("If", "yes", "out", "maybe", then_branch=branch("p"), else_branch=branch("q")),
        ],
        {**weights(w=(4, 3), b=(3,)), "yes": np.array(True)},
    )
    refused(made, tmp_path, task(), "operator If", "node 'maybe'", "loops and branches")


def test_several_outputs_and_none_named(tmp_path: Path) -> None:
    made = dense(outputs=("out", "h"))
    refused(made, tmp_path, task(), "several outputs", "loss.output", "'out', 'h'")


def test_unknown_output(tmp_path: Path) -> None:
    refused(dense(), tmp_path, task(more='output = "logits"'), "'logits'", "'out'")


@pytest.mark.parametrize(("nodes", "found"), [
    ([node("Gemm", "x w b", "h"), node("Unsqueeze", "h axes", "out")], "[batch, 1, 3]"),
    ([node("Gemm", "x w1 b1", "out")], "[batch, 1]"),
])  # fmt: skip
def test_cross_entropy_needs_logits(
    nodes: list[onnx.NodeProto], found: str, tmp_path: Path
) -> None:
    values = {**weights(w=(4, 3), b=(3,), w1=(4, 1), b1=(1,)), "axes": np.array([1])}
    made = model(nodes, read_by(nodes, values))
    refused(made, tmp_path, task(), "output 'out'", found, "[batch, classes]")


def test_an_output_without_batch(tmp_path: Path) -> None:
    made = model(
        [node("Gemm", "x w", "h"), node("ReduceMean", "h", "out", keepdims=0)], weights(w=(4, 3))
    )
    refused(made, tmp_path, task(loss="mse"), "output 'out'", "batch as its first axis")
    made = model([node("Add", "w w", "out"), node("Relu", "x", "y")], weights(w=(4, 3)))
    refused(made, tmp_path, task(loss="mse"), "output 'out'", "batch as its first axis")


def test_frozen_pattern_that_matches_nothing(tmp_path: Path) -> None:
    refused(dense(), tmp_path, task(frozen=["features.*"]), "'features.*'", "w1, b1, w2, b2")


def test_everything_frozen(tmp_path: Path) -> None:
    refused(dense(), tmp_path, task(frozen=["*"]), "no weights to train", "all are frozen")


def test_a_model_without_weights(tmp_path: Path) -> None:
    refused(model([node("Relu", "x", "out")], {}), tmp_path, task(), "no weights to train", "Gemm")


def test_label_named_like_an_input(tmp_path: Path) -> None:
    refused(dense(), tmp_path, task(more='label = "x"'), "loss.label = 'x'", "choose another")
    refused(dense(), tmp_path, task(more='label = "w1"'), "loss.label = 'w1'", "choose another")


def test_input_with_a_reserved_name(tmp_path: Path) -> None:
    made = model(
        [node("Gemm", "learning_rate w", "out")],
        weights(w=(4, 3)),
        inputs={"learning_rate": (FLOAT, ("N", 4))},
    )
    refused(made, tmp_path, task(), "input 'learning_rate'", "rename it")


def test_an_axis_that_varies(tmp_path: Path) -> None:
    made = model([node("MatMul", "x w", "out")], weights(w=(4, 3)), ("N", "length", 4))
    refused(made, tmp_path, task(), "input 'x'", "[N, length, 4]", "only the batch")


def test_a_scalar_input(tmp_path: Path) -> None:
    made = model([node("MatMul", "x w", "out")], weights(w=(4, 3)), ())
    refused(made, tmp_path, task(), "input 'x' is a scalar")


def test_an_input_of_another_type(tmp_path: Path) -> None:
    made = model(
        [node("Cast", "x", "f", to=FLOAT), node("MatMul", "f w", "out")],
        weights(w=(4, 3)),
        inputs={"x": (onnx.TensorProto.FLOAT16, ("N", 4))},
    )
    refused(
        made,
        tmp_path,
        task(),
        "input 'x' is float16",
        "float32, float64, int32, int64, uint8, bool",
    )


def test_double_weights(tmp_path: Path) -> None:
    values = {"w": weights(w=(4, 3))["w"].astype(np.float64)}
    made = model([node("MatMul", "x w", "out", "product")], values, inputs={"x": (11, ("N", 4))})
    refused(made, tmp_path, task(), "weight 'w' of MatMul (node 'product') is float64", "float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite(bad: float, tmp_path: Path) -> None:
    made = dense()
    value = numpy_helper.to_array(made.graph.initializer[0]).copy()
    value[0, 0] = bad
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "w1"))
    refused(made, tmp_path, task(), "weight 'w1' holds NaN")


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    made = model(
        [node("Gemm", "x w", "h", "first"), node("Gemm", "h w", "out", "second")],
        weights(w=(4, 3)),
    )
    refused(made, tmp_path, task(), "shapes do not fit", "node 'second'")


def test_an_operator_set_from_the_future(tmp_path: Path) -> None:
    made = dense()
    made.opset_import[0].version = 99
    refused(made, tmp_path, task(), "99")


def test_max_pool_with_indices(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "h"),
        node("MaxPool", "h", "p i", "pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    read = [node("Gather", "t i", "g"), node("Mul", "p g", "m"), node("Flatten", "m", "out")]
    values = weights(w=(1, 1, 1, 1), t=(16,))
    made = model([*nodes, *read], values, ("N", 1, 4, 4))
    refused(made, tmp_path, task(loss="mse"), "MaxPool (node 'pool')", "indices")
    del values["t"]
    unread = model([*nodes, node("Flatten", "p", "out")], values, ("N", 1, 4, 4))
    compiled(unread, tmp_path, task("mse"))


def test_the_training_build_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxruntime.capi import _pybind_state

    monkeypatch.delattr(_pybind_state, "GradientGraphBuilder")
    with pytest.raises(CompileError) as caught:
        gradient.training_build()
    text = str(caught.value)
    assert "pip install 'lamplighter[coordinator]'" in text
    assert re.search(r"3\.11 or 3\.12, Linux x86-64", text)
    assert "another machine" in text


def test_the_builder_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    compiled(dense(), tmp_path)
    assert capfd.readouterr() == ("", "")
