"""Gradients of convolutions and transposed convolutions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.compiler.errors import CompileError
from tests.coordinator.compiler.building import Shape, compiled, model, node, task, weights
from tests.coordinator.compiler.checking import Case, Gradients, check


def conv(x: Shape, w: Sequence[int], bias: bool = True, **attributes: Any) -> Case:
    """Two convolutions, so that the gradient by the second one's input is seen too."""
    rank = len(x) - 2
    first = (x[1], x[1], *[1] * rank)
    nodes = [
        node("Conv", "x w0", "h", "under"),
        node("Tanh", "h", "t"),
        node("Conv", "t w1 b1" if bias else "t w1", "c", "conv", **attributes),
        node("Flatten", "c", "out"),
    ]
    extra = {"b1": (w[0],)} if bias else {}
    return nodes, weights(w0=first, w1=w, **extra), x  # type: ignore[arg-type]


def transposed(x: Shape, w: Sequence[int], bias: bool = True, **attributes: Any) -> Case:
    """A transposed convolution above a convolution; W is [C, M / group, ...]."""
    case, values, _ = conv(x, (w[0], *w[1:]), bias, **attributes)
    made = [node("ConvTranspose", "t w1 b1" if bias else "t w1", "c", "conv", **attributes)]
    channels = w[1] * attributes.get("group", 1)
    extra = weights(4, b1=(channels,)) if bias else {}
    return [*case[:2], *made, case[3]], {**values, **extra}, x


CASES: dict[str, Case] = {
    "Conv": conv(("N", 2, 6, 5), (3, 2, 3, 3)),
    "Conv without bias": conv(("N", 2, 6, 5), (3, 2, 3, 3), bias=False),
    "Conv pads": conv(("N", 2, 6, 5), (3, 2, 3, 3), pads=[1, 0, 2, 1]),
    "Conv pads beyond the kernel": conv(("N", 2, 4, 4), (3, 2, 2, 2), pads=[3, 3, 3, 3]),
    "Conv strides": conv(("N", 2, 7, 7), (3, 2, 3, 3), strides=[2, 2], pads=[1, 1, 1, 1]),
    "Conv strides, rest left over": conv(("N", 2, 8, 9), (3, 2, 3, 2), strides=[3, 2]),
    "Conv strides beyond the kernel": conv(("N", 2, 9, 9), (3, 2, 2, 2), strides=[3, 4]),
    "Conv dilations": conv(("N", 2, 8, 8), (3, 2, 3, 3), dilations=[2, 1], pads=[1, 1, 1, 1]),
    "Conv strides and dilations": conv(
        ("N", 2, 10, 9), (3, 2, 3, 2), dilations=[2, 3], strides=[2, 3], pads=[1, 0, 1, 1]
    ),
    "Conv groups": conv(("N", 4, 6, 6), (6, 2, 3, 3), group=2, pads=[1, 1, 1, 1]),
    "Conv depthwise, strides": conv(
        ("N", 3, 7, 7), (3, 1, 3, 3), group=3, strides=[2, 2], pads=[1, 1, 1, 1]
    ),
    "Conv same upper": conv(("N", 2, 7, 6), (3, 2, 3, 2), auto_pad="SAME_UPPER", strides=[2, 2]),
    "Conv same lower": conv(("N", 2, 7, 6), (3, 2, 3, 2), auto_pad="SAME_LOWER", strides=[2, 2]),
    "Conv valid": conv(("N", 2, 7, 6), (3, 2, 3, 2), auto_pad="VALID"),
    "Conv 1-D": conv(("N", 2, 9), (3, 2, 3), strides=[2], pads=[1, 0]),
    "Conv 1-D groups, dilations": conv(("N", 4, 9), (2, 2, 3), group=2, dilations=[2]),
    "Conv 3-D": conv(("N", 2, 4, 3, 4), (2, 2, 2, 2, 2), pads=[1, 0, 0, 0, 1, 0]),
    "Conv 3-D groups": conv(("N", 4, 3, 3, 3), (4, 2, 2, 2, 2), group=2),
    "Conv depthwise": conv(("N", 4, 6, 5), (4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    "Conv depthwise, dilations": conv(
        ("N", 3, 7, 7), (3, 1, 3, 3), group=3, dilations=[2, 1], pads=[2, 1, 2, 1]
    ),
    "Conv depthwise, several outputs each": conv(("N", 2, 6, 6), (4, 1, 3, 3), group=2),
    "Conv depthwise, a large window": conv(
        ("N", 2, 7, 6), (2, 1, 6, 6), group=2, pads=[2, 2, 3, 3]
    ),
    "Conv depthwise, rest left over": conv(
        ("N", 3, 8, 9), (3, 1, 3, 2), group=3, strides=[3, 2], dilations=[1, 2]
    ),
    "Conv depthwise, strides along rows, a window's end unused": conv(
        ("N", 2, 7, 8), (2, 1, 3, 2), group=2, strides=[1, 3], dilations=[2, 2], pads=[0, 1, 2, 0]
    ),
    "Conv depthwise, strides, wide rows": conv(
        ("N", 2, 2, 66), (2, 1, 1, 3), group=2, strides=[1, 2], pads=[0, 1, 0, 1]
    ),
    "Conv depthwise 3-D, strides": conv(
        ("N", 2, 3, 4, 5), (2, 1, 2, 2, 2), group=2, strides=[1, 2, 2], pads=[1, 0, 0, 0, 0, 1]
    ),
    "Conv depthwise 3-D of the same size": conv(
        ("N", 2, 3, 4, 5), (2, 1, 3, 1, 3), group=2, pads=[1, 0, 1, 1, 0, 1]
    ),
    "Conv of the same size, many channels": conv(("N", 32, 4, 5), (3, 32, 3, 3), pads=[1] * 4),
    "Conv of the same size, dilations, uneven pads": conv(
        ("N", 33, 4, 6), (2, 33, 2, 3), dilations=[1, 2], pads=[1, 3, 0, 1]
    ),
    "Conv of the same size, 1-D": conv(("N", 32, 5), (3, 32, 4), pads=[2, 1]),
    "Conv of the same size, 3-D": conv(
        ("N", 32, 2, 3, 3), (2, 32, 3, 3, 2), pads=[1, 1, 0, 1, 1, 1]
    ),
    "Conv of the same size, windows beyond the image": conv(
        ("N", 32, 1, 2), (2, 32, 3, 5), pads=[1, 2, 1, 2]
    ),
    "Conv of more channels than places": conv(("N", 20, 2, 2), (24, 20, 2, 2), pads=[1, 0, 0, 1]),
    "Conv of 1x1": conv(("N", 3, 4, 5), (6, 3, 1, 1)),
    "Conv of 1x1, strides and pads": conv(
        ("N", 3, 5, 5), (2, 3, 1, 1), strides=[2, 2], pads=[1, 0, 1, 0]
    ),
    "Conv of 1x1, fewer places than channels": conv(("N", 24, 2), (32, 24, 1)),
    "Conv 1-D groups, depthwise": conv(("N", 4, 9), (4, 1, 3), group=4, pads=[1, 1], strides=[2]),
    "ConvTranspose": transposed(("N", 2, 3, 4), (2, 3, 3, 2)),
    "ConvTranspose without bias": transposed(("N", 2, 3, 4), (2, 3, 2, 2), bias=False,
                                             strides=[2, 2]),
    "ConvTranspose groups, pads": transposed(
        ("N", 4, 4, 3), (4, 2, 3, 3), group=2, strides=[2, 1], pads=[1, 0, 1, 2]
    ),
    "ConvTranspose depthwise": transposed(("N", 3, 4, 3), (3, 1, 2, 2), group=3, strides=[2, 2]),
    "ConvTranspose output padding": transposed(
        ("N", 2, 4, 3), (2, 2, 3, 3), strides=[2, 3], pads=[1, 1, 1, 1], output_padding=[1, 2]
    ),
    "ConvTranspose output shape": transposed(
        ("N", 2, 4, 3), (2, 2, 3, 3), strides=[2, 2], output_shape=[8, 5]
    ),
    "ConvTranspose dilations": transposed(
        ("N", 2, 4, 3), (2, 2, 3, 2), strides=[2, 1], dilations=[2, 3], pads=[1, 1, 0, 1]
    ),
    "ConvTranspose same upper": transposed(
        ("N", 2, 4, 3), (2, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "ConvTranspose same lower": transposed(
        ("N", 2, 4, 3), (2, 2, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"
    ),
    "ConvTranspose same upper, strides beyond the window": transposed(
        ("N", 2, 4, 3), (2, 2, 1, 2), strides=[2, 3], auto_pad="SAME_UPPER"
    ),
    "ConvTranspose same lower, output padding": transposed(
        ("N", 2, 5), (2, 2, 1), strides=[3], auto_pad="SAME_LOWER", output_padding=[1]
    ),
    "ConvTranspose 1-D": transposed(("N", 2, 5), (2, 3, 4), strides=[2], pads=[1, 1]),
    "ConvTranspose 1-D groups": transposed(("N", 4, 5), (4, 1, 3), group=4, strides=[3]),
}  # fmt: skip

# The training build's own dW is wrong for groups on one axis: zero in all but the first row. It
# has no gradient of ConvTranspose for the CPU. Finite differences are the proof.
NO_KERNEL = ("Conv 1-D groups", "ConvTranspose")


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    kernels = not name.startswith(NO_KERNEL)
    check(Gradients(model(*CASES[name]), task("mse"), tmp_path), kernels=kernels)


def test_output_padding_beyond_the_stride_is_refused(tmp_path: Path) -> None:
    case = transposed(("N", 2, 4, 3), (2, 2, 3, 3), dilations=[2, 2], output_padding=[1, 1])
    with pytest.raises(CompileError, match="pads its output by as much as its stride"):
        compiled(model(*case), tmp_path, task("mse"))


@pytest.mark.parametrize(
    "case",
    [
        conv(("N", 3, 4, 5), (6, 3, 1, 1)),
        conv(("N", 4, 6, 5), (4, 1, 3, 3), group=4, pads=[1, 1, 1, 1]),
    ],
    ids=["1x1", "depthwise"],
)
def test_no_slow_convolution(case: Case, tmp_path: Path) -> None:
    """Forward two, and one back to the second one's input: none for a gradient of weights, whose
    window would be the image."""
    compiled(model(*case), tmp_path, task("mse"))
    graph = onnx.load(tmp_path / "plan" / "train.onnx").graph
    found = [n.op_type for n in graph.node if n.op_type.startswith("Conv")]
    assert found == ["Conv"] * 3


@settings(max_examples=25)
@given(data=st.data())
def test_convolutions(data: st.DataObject, tmp_path_factory: Any) -> None:
    rank = data.draw(st.integers(1, 2), "rank")
    per_axis = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel, strides = data.draw(per_axis, "kernel"), data.draw(per_axis, "strides")
    dilations = data.draw(per_axis, "dilations")
    pads = data.draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank), "pads")
    size = data.draw(st.lists(st.integers(7, 9), min_size=rank, max_size=rank), "size")
    group = data.draw(st.integers(1, 2), "group")
    case = conv(
        ("N", 2 * group, *size),
        (2 * group, 2, *kernel),
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=group,
    )
    # The training build's own dW is wrong for groups on one axis: zero in all but the first row.
    right = rank == 2 or group == 1
    check(Gradients(model(*case), task("mse"), tmp_path_factory.mktemp("conv")), 2, kernels=right)
