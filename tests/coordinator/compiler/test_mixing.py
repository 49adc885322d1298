"""A model whose examples are mixed is refused; one that only moves the batch about is not."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from coordinator.compiler.errors import CompileError
from tests.coordinator.compiler.building import compiled, model, node, read_by, task, weights

W = node("MatMul", "x w", "h")
MIXED: dict[str, tuple[list[onnx.NodeProto], tuple[int, ...]]] = {
    "softmax over the batch": ([W, node("Softmax", "h", "out", axis=0)], (4,)),
    "a product across the batch": (
        [W, node("Transpose", "h", "t", perm=[1, 0]), node("MatMul", "t h", "s"),
         node("MatMul", "h s", "out")], (4,)),
    "a mean over the batch": (
        [W, node("ReduceMean", "h", "m", axes=[0], keepdims=1), node("Sub", "h m", "out")], (4,)),
    "a reshape that moves the batch": (
        [W, node("Reshape", "h moved", "r"), node("Transpose", "r", "t", perm=[1, 2, 0]),
         node("Reshape", "t back", "out")], (2, 4)),
    "a transpose that is not taken back": (
        [W, node("Transpose", "h", "t", perm=[1, 0, 2]), node("Reshape", "t back", "out")], (2, 4)),
    "reversed": ([W, node("Slice", "h first last zero first", "out")], (4,)),
}  # fmt: skip
FIXED = {
    "there and back": [
        W, node("Transpose", "h", "t", perm=[1, 0, 2]), node("Tanh", "t", "u"),
        node("Transpose", "u", "out", perm=[1, 0, 2])],
    "through one axis": [
        W, node("Reshape", "h flat", "f"), node("Tanh", "f", "t"),
        node("Reshape", "t split", "out")],
    "softmax within": [W, node("Softmax", "h", "out", axis=1)],
}  # fmt: skip
CONSTANTS = {
    "moved": np.array([2, -1, 4]),
    "back": np.array([-1, 2, 4]),
    "flat": np.array([-1, 4]),
    "split": np.array([-1, 2, 4]),
    "first": np.array([-1]),
    "last": np.array([-(2**31)]),
    "zero": np.array([0]),
}


def made(nodes: list[onnx.NodeProto], shape: tuple[int, ...]) -> onnx.ModelProto:
    return model(nodes, weights(w=(4, 4)) | read_by(nodes, CONSTANTS), ("N", *shape))


@pytest.mark.parametrize("name", MIXED)
def test_mixed_examples_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"other examples of the batch|cuts the batch"):
        compiled(made(*MIXED[name]), tmp_path, task("mse"))


@pytest.mark.parametrize("name", FIXED)
def test_examples_that_stay_apart(name: str, tmp_path: Path) -> None:
    compiled(made(FIXED[name], (2, 4)), tmp_path, task("mse"))


def test_a_model_that_takes_one_example_only(tmp_path: Path) -> None:
    """Exported for one example, with a constant of one example joined to it."""
    nodes = [W, node("Concat", "token h", "out", "join", axis=1)]
    values = weights(w=(4, 4), token=(1, 1, 4))
    with pytest.raises(CompileError, match=r"do not fit together: Concat \(node 'join'\)"):
        compiled(model(nodes, values, (1, 2, 4)), tmp_path, task("mse"))
