"""Models as exporters write them: operator sets, functions, constants, shapes of shapes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from coordinator.compiler.errors import CompileError
from tests.coordinator.compiler.building import (
    FLOAT,
    INT64,
    Shape,
    compiled,
    dense,
    ints,
    model,
    node,
    read_by,
    run,
    session,
    task,
    weights,
)


def bare(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any],
    x: Shape,
    out: Shape,
    opset: int,
    ir_version: int = 10,
) -> onnx.ModelProto:
    """A model of any operator set, its output's shape said."""
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info("x", FLOAT, list(x))],
        [helper.make_tensor_value_info("out", FLOAT, list(out))],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def same(proto: onnx.ModelProto, tmp_path: Path, size: Sequence[int], known: bool = True) -> None:
    """Assert that it compiles and that the plan's model computes what the runtime says of it."""
    compiled(proto, tmp_path, task("mse"))
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    found = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    assert len(found) == size[0]
    if known:
        expected = run(session(proto.SerializeToString()), {"x": x})["out"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


IMAGE = weights(c=(4, 2, 3, 3), cb=(4,), w=(16, 3), b=(3,))
FIRST = node("Conv", "x c cb", "h", pads=[1, 1, 1, 1])
LAST = [node("Flatten", "p", "f"), node("Gemm", "f w b", "out")]
POOL = node("AveragePool", "h", "p", kernel_shape=[3, 3], strides=[3, 3])
OLD: dict[str, tuple[list[onnx.NodeProto], dict[str, Any]]] = {
    "pads as an attribute": (
        [FIRST, node("Pad", "h", "q", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
         node("MaxPool", "q", "p", kernel_shape=[4, 4], strides=[4, 4]), *LAST], IMAGE),
    "slices as attributes": (
        [FIRST, node("Slice", "h", "s", starts=[0, 1], ends=[9, 9], axes=[2, 3]),
         node("AveragePool", "s", "p", kernel_shape=[3, 3], strides=[3, 2]), *LAST], IMAGE),
    "squeeze, unsqueeze and split": (
        [FIRST, node("Unsqueeze", "h", "u", axes=[1]), node("Squeeze", "u", "v", axes=[1]),
         node("Split", "v", "s t", axis=1, split=[2, 2]), node("Concat", "t s", "j", axis=1),
         node("AveragePool", "j", "p", kernel_shape=[3, 3], strides=[3, 3]), *LAST], IMAGE),
    "softmax of the flattened rest": (
        [FIRST, POOL, node("Softmax", "p", "q", axis=1), node("Flatten", "q", "f"), LAST[1]],
        IMAGE),
    "upsample": (
        [FIRST, POOL, node("Upsample", "p k", "q", mode="nearest"),
         node("MaxPool", "q", "r", kernel_shape=[2, 2], strides=[2, 2]), node("Flatten", "r", "f"),
         LAST[1]],
        {**IMAGE, "k": np.array([1, 1, 2, 2], np.float32)}),
    "a gemm that broadcasts": ([FIRST, POOL, *LAST], IMAGE),
    "a computed reshape": (
        [FIRST, POOL, node("Shape", "p", "s"), node("Gather", "s zero", "n"),
         node("Unsqueeze", "n", "m", axes=[0]), node("Concat", "m rest", "t", axis=0),
         node("Reshape", "p t", "f"), LAST[1]],
        {**IMAGE, "zero": np.array(0), "rest": ints(-1)}),
}  # fmt: skip
FORMS = {
    "pads as an attribute": range(7, 11),
    "slices as attributes": range(7, 10),
    "upsample": range(9, 10),
}
"""The operator sets that know these forms; the others are in all old ones."""


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name in OLD for opset in FORMS.get(name, range(7, 13))]
)
def test_old_operator_sets(name: str, opset: int, tmp_path: Path) -> None:
    nodes, constants = OLD[name]
    same(bare(nodes, constants, ("N", 2, 6, 6), ("N", 3), opset, 4), tmp_path, (3, 2, 6, 6))


def test_an_operator_set_that_is_too_old(tmp_path: Path) -> None:
    nodes, constants = OLD["a gemm that broadcasts"]
    with pytest.raises(CompileError, match=r"operator set 5 .* too old"):
        compiled(bare(nodes, constants, ("N", 2, 6, 6), ("N", 3), 5), tmp_path, task("mse"))


@pytest.mark.parametrize("opset", range(13, 27))
def test_operator_sets(opset: int, tmp_path: Path) -> None:
    """What newer sets only took more types for is taken as it is."""
    nodes = [
        FIRST,
        node("MaxPool", "h", "m", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", "m", "g"),
        node("Shape", "g", "s"),
        node("Reshape", "g t", "r"),
        node("Transpose", "r", "u", perm=[0, 2, 1]),
        node("Flatten", "u", "f"),
        node("Gemm", "f w b", "out"),
    ]
    values = {**IMAGE, "w": IMAGE["w"][:4], "t": ints(0, 2, 2)}
    proto = bare(nodes, values, ("N", 2, 6, 6), ("N", 3), opset)
    same(proto, tmp_path, (3, 2, 6, 6), known=opset <= 21)


NEWER = {
    "Swish": (24, [node("Swish", "h", "out", alpha=1.5)]),
    "RotaryEmbedding": (23, [node("RotaryEmbedding", "h cos sin", "out")]),
}
"""Operators that have a definition by older ones."""


@pytest.mark.parametrize("op", NEWER)
def test_new_operators_are_written_as_older_ones(op: str, tmp_path: Path) -> None:
    opset, nodes = NEWER[op]
    half = np.ones((1, 3, 2), np.float32) / 2
    constants = read_by(nodes, {"cos": half, "sin": half / 1.5})
    made = bare(
        [node("MatMul", "x w0", "h"), *nodes],
        weights(w0=(4, 4)) | constants,
        ("N", 2, 3, 4),
        ("N", 2, 3, 4),
        opset,
    )
    same(made, tmp_path, (2, 2, 3, 4), known=False)


def test_a_new_operator_without_a_definition(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "h"), node("CumProd", "h axis", "out")]
    constants = {**weights(w=(4, 3)), "axis": np.array(1)}
    with pytest.raises(CompileError, match="operator CumProd is newer"):
        compiled(bare(nodes, constants, ("N", 4), ("N", 3), 26), tmp_path, task("mse"))


def test_a_new_attribute(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "h"), node("SpaceToDepth", "h", "out", blocksize=1, mode="CRD")]
    made = bare(nodes, weights(w=(4, 4)), ("N", 1, 4, 4), ("N", 1, 4, 4), 28)
    with pytest.raises(CompileError, match="attribute mode of SpaceToDepth is newer"):
        compiled(made, tmp_path, task("mse"))


def test_functions_are_written_out(tmp_path: Path) -> None:
    """PyTorch's newer exporter leaves functions of its own in a model, and functions of these."""
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    twice = helper.make_function(
        "local", "Twice", ["a"], ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])], imports[:1],
    )  # fmt: skip
    block = helper.make_function(
        "local", "Block", ["a", "w"], ["b"],
        [helper.make_node("MatMul", ["a", "w"], ["m"]),
         helper.make_node("Twice", ["m"], ["b"], domain="local")], imports,
    )  # fmt: skip
    made = bare([helper.make_node("Block", ["x", "w"], ["out"], domain="local")],
                weights(w=(4, 3)), ("N", 4), ("N", 3), 18)  # fmt: skip
    made.functions.extend([twice, block])
    made.opset_import.append(imports[1])
    made.metadata_props.add(key="exported_by", value="a test")
    same(made, tmp_path, (3, 4))


CONSTANTS = {
    "value": {"value": numpy_helper.from_array(ints(-1, 2, 2))},
    "value_ints": {"value_ints": [-1, 2, 2]},
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_constants(kind: str, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["s"], **CONSTANTS[kind]),
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["axis"], value_int=1),
        node("MatMul", "x w", "h"),
        node("Mul", "h half", "g"),
        node("Reshape", "g s", "r"),
        node("Gather", "r axis", "out", axis=1),
    ]
    same(bare(nodes, weights(w=(4, 4)), ("N", 4), ("N", 2), 17), tmp_path, (3, 4))


@pytest.mark.parametrize("value", [{"value_string": "no"}, {"value_strings": ["no"]}])
def test_constants_of_text_are_refused(value: dict[str, Any], tmp_path: Path) -> None:
    made = dense()
    made.graph.node.insert(0, helper.make_node("Constant", [], ["text"], "words", **value))
    with pytest.raises(CompileError, match=r"Constant \(node 'words'\) holds text"):
        compiled(made, tmp_path)


def test_sparse_constants_are_refused(tmp_path: Path) -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", FLOAT, [1], [2.0]), helper.make_tensor("i", INT64, [1], [0]), [4]
    )
    made = dense()
    made.graph.node.insert(
        0, helper.make_node("Constant", [], ["sparse"], "thin", sparse_value=sparse)
    )
    with pytest.raises(CompileError, match=r"Constant \(node 'thin'\) holds text or a sparse"):
        compiled(made, tmp_path)


def test_an_empty_axis_is_refused(tmp_path: Path) -> None:
    made = model([node("MatMul", "x w", "out")], weights(w=(4, 3)), ("N", 0, 4))
    with pytest.raises(
        CompileError, match=r"input 'x' has the shape \[N, 0, 4\]: there is nothing"
    ):
        compiled(made, tmp_path, task("mse"))
