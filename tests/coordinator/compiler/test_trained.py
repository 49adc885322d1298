"""Which initialisers are weights; and what a task may say about it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.coordinator.compiler.building import (
    compiled,
    f32,
    ints,
    model,
    node,
    refused,
    task,
    weights,
)


def trained(
    nodes: Sequence[onnx.NodeProto],
    values: dict[str, np.ndarray],
    tmp_path: Path,
    more: str = "",
    frozen: Sequence[str] = (),
) -> list[str]:
    """The public names of the weights that are trained."""
    made = model(nodes, values, ("N", 3, 4), opset=21)
    plan = compiled(made, tmp_path, task("mse", model=more, frozen=frozen))
    return [p.name for p in plan.manifest.parameters]


def test_standardised_inputs_stay_constants(tmp_path: Path) -> None:
    """Whether it is written with Sub and Div, or with Mul and Add."""
    nodes = [
        node("Sub", "x mean", "a"),
        node("Div", "a std", "b"),
        node("Mul", "b factor", "c"),
        node("Add", "offset c", "d"),
        node("Reshape", "d shape", "e"),
        node("Mul", "e factor", "f"),
        node("MatMul", "f w", "g"),
        node("Add", "g bias", "out"),
    ]
    values = weights(mean=(4,), std=(4,), factor=(4,), offset=(4,), w=(4, 3), bias=(3,))
    values["shape"] = ints(-1, 3, 4)
    assert trained(nodes, values, tmp_path) == ["w", "bias"]
    chosen = 'trained = ["factor", "off*"]'
    assert trained(nodes, values, tmp_path, chosen) == ["factor", "offset", "w", "bias"]


def test_scales_and_biases_after_a_weight_are_weights(tmp_path: Path) -> None:
    """An exported norm's; but lone numbers are none, and nor is what is subtracted."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("Mul", "a two", "b"),
        node("Mul", "scale b", "c"),
        node("Add", "c bias", "d"),
        node("Mul", "d one", "e"),
        node("Add", "e first", "f"),
        node("Sub", "f less", "g"),
        node("Div", "g by", "out"),
    ]
    values = weights(w=(4, 4), scale=(4,), bias=(4,), less=(4,), by=(4,), first=(1,))
    values |= {"two": f32(2), "one": np.ones(1, np.float32)}
    assert trained(nodes, values, tmp_path) == ["w", "scale", "bias", "first"]


def test_weights_before_a_frozen_layer_count_as_weights(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("Mul", "a scale", "out")]
    values = weights(w=(4, 4), scale=(4,))
    assert trained(nodes, values, tmp_path, frozen=["w"]) == ["scale"]


def test_the_mask_of_an_attention_is_no_weight(tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Add", "a far", "b"),
        node("Add", "b mask", "c"),
        node("Softmax", "c", "out"),
    ]
    mask = np.triu(np.full((3, 3), -np.inf, np.float32), 1)
    far = np.where(np.isinf(mask), np.finfo(np.float32).min, 0).astype(np.float32)
    assert trained(nodes, {**weights(w=(4, 3)), "mask": mask, "far": far}, tmp_path) == ["w"]


def test_a_group_norm_as_exporters_write_it(tmp_path: Path) -> None:
    """An instance norm with a scale of 1 between two Reshapes, then its own scale and bias."""
    nodes = [
        node("MatMul", "x w", "a"),
        node("Reshape", "a apart", "g"),
        node("InstanceNormalization", "g ones zeros", "n"),
        node("Reshape", "n whole", "m"),
        node("Mul", "m scale", "s"),
        node("Add", "s bias", "out"),
    ]
    values = weights(w=(4, 4), scale=(3, 1), bias=(3, 1))
    values |= {"ones": np.ones(3, np.float32), "zeros": np.zeros(3, np.float32)}
    values |= {"apart": ints(0, 3, -1), "whole": ints(-1, 3, 4)}
    assert trained(nodes, values, tmp_path) == ["w", "scale", "bias"]


def test_a_new_instance_norm(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "a"), node("InstanceNormalization", "a ones zeros", "out")]
    values = weights(w=(4, 4))
    values |= {"ones": np.ones(3, np.float32), "zeros": np.zeros(3, np.float32)}
    assert trained(nodes, values, tmp_path) == ["w", "ones", "zeros"]


def test_what_a_constant_node_holds_is_no_weight(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(np.ones(3, np.float32))
    nodes = [
        node("Constant", "", "c", value=value),
        node("MatMul", "x w", "a"),
        node("Mul", "a c", "out"),
    ]
    assert trained(nodes, weights(w=(4, 3)), tmp_path) == ["w"]


def test_a_number_can_be_chosen(tmp_path: Path) -> None:
    """A temperature, say."""
    nodes = [node("MatMul", "x w", "a"), node("Div", "a t", "out")]
    values = {**weights(w=(4, 3)), "t": f32(2)}
    assert trained(nodes, values, tmp_path) == ["w"]
    assert trained(nodes, values, tmp_path, 'trained = ["t"]') == ["w", "t"]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ('trained = ["u*"]', ("model.trained", "'u*'", "matches no weight", "s, w, t, v")),
        ('trained = ["v"]', ("model.trained", "does not depend on weight 'v'")),
        ('trained = ["t", "s"]', ("'s'", "model.frozen", "model.trained")),
        ('trained = ["d"]', ("weight 'd'", "float64", "only float32")),
    ],
)
def test_what_cannot_be_chosen(more: str, parts: Sequence[str], tmp_path: Path) -> None:
    nodes = [
        node("MatMul", "x w", "a"),
        node("Div", "a t", "b"),
        node("Cast", "d", "e", to=1),
        node("Mul", "b e", "c"),
        node("Div", "c s", "out"),
        node("Mul", "x v", "other"),
    ]
    values = {
        "s": f32(1, 2, 3, 4),
        **weights(w=(4, 4)),
        "t": f32(2),
        **weights(v=(4,)),
        "d": np.ones(4),
    }
    made = model(nodes, values, ("N", 3, 4), ("out", "other"), opset=21)
    spec = task("mse", more='output = "out"', model=more, frozen=["s"])
    refused(made, tmp_path, spec, *parts)
