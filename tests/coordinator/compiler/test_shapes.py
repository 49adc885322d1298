"""Shapes computed from shapes, as exporters write them, with the batch's length among them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.coordinator.compiler.building import (
    FLOAT,
    INT64,
    compiled,
    model,
    node,
    read_by,
    run,
    session,
    task,
    weights,
)
from tests.coordinator.compiler.checking import Gradients, check

BOOL = onnx.TensorProto.BOOL
ONES = onnx.numpy_helper.from_array(np.array([1], np.int64))


def lengths(of: str, *axes: int) -> list[onnx.NodeProto]:
    """`n0`, `n1`, ... are the lengths of these axes, each of one element."""
    made = [node("Shape", of, "shape")]
    for axis in axes:
        made += [node("Gather", f"shape i{axis}", f"g{axis}", axis=0),
                 node("Unsqueeze", f"g{axis} i0_", f"n{axis}")]  # fmt: skip
    return made


START = node("MatMul", "x w", "h")
CHAINS: dict[str, list[onnx.NodeProto]] = {
    "view(x.size(0), -1)": [
        *lengths("h", 0), node("Concat", "n0 minus", "t", axis=0), node("Reshape", "h t", "out")],
    "heads, and back": [
        *lengths("h", 0, 1), node("Concat", "n0 n1 two two", "t", axis=0),
        node("Reshape", "h t", "a"), node("Transpose", "a", "b", perm=[0, 2, 1, 3]),
        node("Softmax", "b", "c"), node("Transpose", "c", "d", perm=[0, 2, 1, 3]),
        node("Concat", "n0 n1 four", "u", axis=0), node("Reshape", "d u", "out")],
    "batch and heads in one axis, the batch in the middle": [
        *lengths("h", 0), node("Transpose", "h", "a", perm=[1, 0, 2]),
        node("Mul", "n0 two", "bh"), node("Concat", "three bh two", "t", axis=0),
        node("Reshape", "a t", "b"), node("Transpose", "b", "c", perm=[1, 0, 2]),
        node("Softmax", "c", "d"), node("Transpose", "d", "e", perm=[1, 0, 2]),
        node("Concat", "three n0 four", "u", axis=0), node("Reshape", "e u", "f"),
        node("Transpose", "f", "out", perm=[1, 0, 2])],
    "batch and time in one axis": [
        *lengths("h", 0, 1), node("Mul", "n0 n1", "bt"), node("Concat", "bt minus", "t", axis=0),
        node("Reshape", "h t", "a"), node("Tanh", "a", "b"), node("Div", "bt n1", "n"),
        node("Concat", "n three minus", "u", axis=0), node("Reshape", "b u", "out")],
    "a token for each example, as torch expands it": [
        *lengths("h", 0), node("Concat", "n0 minus minus", "t", axis=0),
        node("ConstantOfShape", "rank", "ones", value=ONES),
        node("Mul", "ones minus", "minuses"), node("Equal", "t minuses", "same"),
        node("Where", "same ones t", "u"), node("Expand", "token u", "tokens"),
        node("Concat", "tokens h", "j", axis=1), node("Softmax", "j", "out", axis=1)],
    "a state of zeros for each example": [
        *lengths("h", 0), node("Concat", "one n0 four", "t", axis=0),
        node("ConstantOfShape", "t", "zeros"), node("Transpose", "h", "a", perm=[1, 0, 2]),
        node("Concat", "zeros a", "b", axis=0), node("Transpose", "b", "out", perm=[1, 0, 2])],
    "twice as large, reckoned in floats": [
        node("Unsqueeze", "h i1_", "p"), node("Shape", "p", "s"), node("Slice", "s two four", "hw"),
        node("Cast", "hw", "f", to=FLOAT), node("Mul", "f factor", "g"), node("Floor", "g", "k"),
        node("Cast", "k", "m", to=INT64), node("Slice", "s zero two", "nc"),
        node("Concat", "nc m", "t", axis=0),
        node("Resize", "p _ _ t", "out", mode="nearest", nearest_mode="floor",
             coordinate_transformation_mode="asymmetric")],
    "a causal mask": [
        *lengths("h", 1), node("Concat", "n1 n1", "t", axis=0),
        node("ConstantOfShape", "t", "mask", value=ONES), node("Trilu", "mask", "low", upper=0),
        node("Cast", "low", "yes", to=BOOL), node("Transpose", "h", "k", perm=[0, 2, 1]),
        node("MatMul", "h k", "scores"), node("Where", "yes scores tiny", "masked"),
        node("Softmax", "masked", "p"), node("MatMul", "p h", "out")],
    "positions": [
        *lengths("h", 1), node("Squeeze", "n1", "n"), node("Range", "nought n step", "r"),
        node("Gather", "table r", "e"), node("Add", "h e", "out")],
    "as large as another": [
        node("Shape", "x", "s"), node("Expand", "single s", "big"), node("Add", "h big", "out")],
}  # fmt: skip
NUMBERS: dict[str, Any] = {
    "minus": np.array([-1]), "zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
    "three": np.array([3]), "four": np.array([4]), "rank": np.array([3]), "i0": np.array(0),
    "i1": np.array(1), "i0_": np.array([0]), "i1_": np.array([1]), "nought": np.array(0),
    "step": np.array(1), "factor": np.float32(2), "tiny": np.float32(-1e9),
}  # fmt: skip


def chain(name: str, batch: str | int = "N") -> onnx.ModelProto:
    nodes = [START, *CHAINS[name]]
    values = {
        **NUMBERS,
        **weights(w=(4, 4), token=(1, 1, 4), table=(5, 4), single=(1, 1, 4)),
    }
    return model(nodes, read_by(nodes, values), (batch, 3, 4), opset=19)


@pytest.mark.parametrize("name", CHAINS)
def test_the_batch_is_followed(name: str, tmp_path: Path) -> None:
    proto = chain(name)
    plan = compiled(proto, tmp_path, task("mse"))
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    found = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    expected = run(session(proto.SerializeToString()), {"x": x})["out"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    # Of the arithmetic on shapes nothing is left but what must know the batch.
    ops = {n.op_type for n in onnx.load_from_string(plan.files["train.onnx"]).graph.node}
    assert ops.isdisjoint({"Range", "Trilu", "Floor", "Slice"})


@pytest.mark.parametrize("name", CHAINS)
def test_gradients(name: str, tmp_path: Path) -> None:
    kernels = "large" not in name  # it has no kernel of ResizeGrad in this mode
    check(Gradients(chain(name), task("mse"), tmp_path), kernels=kernels)


@pytest.mark.parametrize("name", [n for n in CHAINS if "zeros" not in n and "token" not in n])
def test_exported_for_one_example(name: str, tmp_path: Path) -> None:
    """The same models with their batch fixed at one, and every shape folded by the exporter."""
    compiled(chain(name, 1), tmp_path, task("mse"))
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    found = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    assert len(found) == 5


def test_axes_joined_for_one_example(tmp_path: Path) -> None:
    """Attention exported for one example: its shapes are numbers, the batch nowhere to be seen."""
    nodes = [
        node("Transpose", "x", "a", perm=[1, 0, 2]),
        node("Reshape", "a flat", "b"),
        node("MatMul", "b w", "c"),
        node("Reshape", "c heads", "d"),
        node("Transpose", "d", "e", perm=[1, 0, 2]),
        node("Softmax", "e", "f"),
        node("Transpose", "f", "g", perm=[1, 0, 2]),
        node("Reshape", "g apart", "h"),
        node("Transpose", "h", "out", perm=[1, 0, 2]),
    ]
    shapes = {"flat": [3, 4], "heads": [3, 2, 2], "apart": [3, 1, 4]}
    values = {**weights(w=(4, 4)), **{n: np.array(v) for n, v in shapes.items()}}
    proto = model(nodes, values, (1, 3, 4))
    compiled(proto, tmp_path, task("mse"))
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    found = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    alone = session(proto.SerializeToString())
    expected = [run(alone, {"x": one[None]})["out"][0] for one in x]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
