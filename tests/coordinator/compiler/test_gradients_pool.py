"""Gradients of pooling."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent.examples import Examples
from tests.coordinator.compiler.building import Shape, compiled, model, node, task, weights
from tests.coordinator.compiler.checking import Case, Gradients, check, close
from tests.coordinator.compiler.stepping import trainer_of


def pool(op: str, x: Shape, **attributes: Any) -> Case:
    """A pooling over something with weights."""
    rank = len(x) - 2
    nodes = [
        node("Conv", "x w0 b0", "h", "under"),
        node(op, "h", "p", "pool", **attributes),
        node("Tanh", "p", "t"),
        node("Flatten", "t", "out"),
    ]
    return nodes, weights(w0=(3, x[1], *[1] * rank), b0=(3,)), x  # type: ignore[arg-type, list-item]


CASES: dict[str, Case] = {
    "MaxPool": pool("MaxPool", ("N", 2, 6, 4), kernel_shape=[2, 2], strides=[2, 2]),
    "MaxPool, rest left over": pool("MaxPool", ("N", 2, 7, 5), kernel_shape=[2, 2], strides=[2, 2]),
    "MaxPool overlapping": pool("MaxPool", ("N", 2, 7, 7), kernel_shape=[3, 3], strides=[2, 2]),
    "MaxPool pads": pool(
        "MaxPool", ("N", 2, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "MaxPool stride 1": pool("MaxPool", ("N", 2, 5, 5), kernel_shape=[2, 3]),
    "MaxPool ceil mode": pool(
        "MaxPool", ("N", 2, 6, 6), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1
    ),
    "MaxPool dilations": pool("MaxPool", ("N", 2, 7, 7), kernel_shape=[2, 2], dilations=[2, 3]),
    "MaxPool same upper": pool(
        "MaxPool", ("N", 2, 7, 6), kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "MaxPool 1-D": pool("MaxPool", ("N", 2, 8), kernel_shape=[2], strides=[2]),
    "AveragePool": pool("AveragePool", ("N", 2, 6, 4), kernel_shape=[2, 2], strides=[2, 2]),
    "AveragePool unlike sides": pool("AveragePool", ("N", 2, 6, 6), kernel_shape=[3, 2],
                                     strides=[3, 2]),
    "AveragePool overlapping": pool("AveragePool", ("N", 2, 7, 8), kernel_shape=[3, 3],
                                    strides=[2, 2]),
    "AveragePool pads": pool(
        "AveragePool", ("N", 2, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "AveragePool count_include_pad": pool(
        "AveragePool", ("N", 2, 6, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 1],
        count_include_pad=1,
    ),
    "AveragePool same lower": pool(
        "AveragePool", ("N", 2, 7, 6), kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_LOWER"
    ),
    "AveragePool stride 1": pool("AveragePool", ("N", 2, 5, 5), kernel_shape=[2, 2]),
    "AveragePool 1-D": pool("AveragePool", ("N", 2, 8), kernel_shape=[2], strides=[2]),
    "MaxPool ceil mode, pads": pool("MaxPool", ("N", 2, 6, 5), kernel_shape=[3, 3], strides=[2, 3],
                                    pads=[1, 0, 0, 1], ceil_mode=1),
    "MaxPool ceil mode, a window outside": pool("MaxPool", ("N", 2, 6, 6), kernel_shape=[2, 2],
                                                strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    "MaxPool 3-D": pool("MaxPool", ("N", 2, 4, 4, 4), kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
    "AveragePool ceil mode": pool("AveragePool", ("N", 2, 6, 6), kernel_shape=[3, 3],
                                  strides=[2, 2], ceil_mode=1),
    "AveragePool ceil mode, pads": pool("AveragePool", ("N", 2, 6, 5), kernel_shape=[3, 3],
                                        strides=[2, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    "AveragePool ceil mode, pads counted": pool(
        "AveragePool", ("N", 2, 6, 5), kernel_shape=[3, 3], strides=[2, 3], pads=[1, 1, 1, 1],
        ceil_mode=1, count_include_pad=1),
    "AveragePool dilations": pool("AveragePool", ("N", 2, 7, 6), kernel_shape=[3, 2],
                                  dilations=[2, 3], strides=[1, 2], pads=[1, 0, 1, 1]),
    "AveragePool 3-D": pool("AveragePool", ("N", 2, 4, 4, 4), kernel_shape=[2, 3, 2]),
    "LpPool": pool("LpPool", ("N", 2, 6, 5), kernel_shape=[3, 2], strides=[2, 2],
                   pads=[1, 0, 1, 1]),
    "LpPool p 3": pool("LpPool", ("N", 2, 6, 5), kernel_shape=[2, 2], p=3),
    "LpPool p 1": pool("LpPool", ("N", 2, 6, 5), kernel_shape=[2, 2], p=1),
    "GlobalAveragePool": pool("GlobalAveragePool", ("N", 2, 4, 3)),
    "GlobalAveragePool 1-D": pool("GlobalAveragePool", ("N", 2, 4)),
    "GlobalMaxPool": pool("GlobalMaxPool", ("N", 2, 4, 3)),
    "GlobalMaxPool 1-D": pool("GlobalMaxPool", ("N", 2, 4)),
    "GlobalLpPool": pool("GlobalLpPool", ("N", 2, 4, 3)),
    "GlobalLpPool p 3": pool("GlobalLpPool", ("N", 2, 4, 3), p=3),
}  # fmt: skip

# The training build crashes in these: finite differences are the proof.
NO_KERNEL = ("AveragePool", "LpPool")


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    kernels = not name.startswith(NO_KERNEL)
    check(Gradients(model(*CASES[name], opset=19), task("mse"), tmp_path), kernels=kernels)


def test_ties_of_a_max_pool_go_to_one_place(tmp_path: Path) -> None:
    gradients = Gradients(model(*CASES["MaxPool"]), task("mse"), tmp_path)
    examples = gradients.examples(2)
    examples["x"] = np.round(examples["x"])
    lowered, expected = gradients.lowered(examples), gradients.training_build(examples)
    for name, value in lowered.items():
        close(value, expected[name])


def test_a_window_without_any_number_is_no_bad_plan(tmp_path: Path) -> None:
    """What diverges is to end as that. MaxUnpool refuses the index of such a window."""
    nodes = [
        node("Conv", "x w", "h"),
        node("MaxPool", "h", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("Gemm", "f v", "out"),
    ]
    plan = compiled(model(nodes, weights(w=(2, 1, 1, 1), v=(8, 3)), ("N", 1, 4, 4)), tmp_path)
    trainer = trainer_of(plan, tmp_path)
    x = np.full((2, 1, 4, 4), np.nan, np.float32)
    assert math.isnan(trainer.step(Examples({"x": x, "label": np.array([0, 1])})))
