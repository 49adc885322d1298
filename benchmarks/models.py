"""Models that are trained beside FedAvg's two (`examples.mnist.models`): four more of the kinds
that devices train. Glorot-uniform weights of a fixed seed.

Weights are named and laid out as torch's modules have them (`torch_models.py`), but for the LSTM's,
and for FedAvg's two, whose matrices are the other way round.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from examples.mnist.models import CLASSES, Graph


class _Graph(Graph):
    """With what these models have beside."""

    def linear(self, x: str, name: str, n_in: int, n_out: int) -> str:
        """x W' + b, of a matrix or of each row of a batch of them."""
        weight = self.weight(f"{name}.weight", (n_out, n_in), n_in, n_out)
        turned = self.node("Transpose", [weight], f"{name}.turned", perm=[1, 0])
        product = self.node("MatMul", [x, turned], f"{name}.product")
        return self.node("Add", [product, self.bias(f"{name}.bias", n_out)], name)

    def head(self, x: str, n_in: int) -> str:
        """The logits."""
        weight = self.weight("head.weight", (CLASSES, n_in), n_in, CLASSES)
        bias = self.bias("head.bias", CLASSES)
        return self.node("Gemm", [x, weight, bias], "head", transB=1)

    def filter(self, x: str, name: str, kernel: list[int], n_in: int, n_out: int, stride: int = 1,
               group: int = 1, active: str = "Relu") -> str:  # fmt: skip
        """A convolution that keeps the size, or divides it by its stride, and an activation."""
        area = int(np.prod(kernel))
        weight = self.weight(
            f"{name}.weight", (n_out, n_in // group, *kernel), n_in // group * area, n_out * area
        )
        made = self.node(
            "Conv",
            [x, weight, self.bias(f"{name}.bias", n_out)],
            name,
            kernel_shape=kernel,
            strides=[stride] * len(kernel),
            pads=[k // 2 for k in kernel] * 2,
            group=group,
        )
        if active == "Clip":
            return self.node("Clip", [made, self.scalar(0), self.scalar(6)], f"{name}.active")
        return self.node(active, [made], f"{name}.active") if active else made

    def scalar(self, value: float) -> str:
        """A constant."""
        name = f"constant{len(self.nodes)}_{value:g}"
        tensor = numpy_helper.from_array(np.asarray(value, np.float32))
        self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def ints(self, *values: int) -> str:
        """A constant vector of integers."""
        name = f"constant{len(self.nodes)}"
        tensor = numpy_helper.from_array(np.asarray(values, np.int64))
        self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def normed(self, x: str, name: str, size: int) -> str:
        """Layer norm over the last axis."""
        ones = numpy_helper.from_array(np.ones(size, np.float32), f"{name}.weight")
        self.weights.append(ones)
        bias = self.bias(f"{name}.bias", size)
        return self.node("LayerNormalization", [x, f"{name}.weight", bias], name, epsilon=1e-5)


def keywords() -> onnx.ModelProto:
    """A keyword spotter: 1-D convolutions over 48 frames of 40 features; 22,602 weights."""
    g = _Graph()
    at = g.filter("x", "conv1", [5], 40, 64)
    at = g.node("MaxPool", [at], "pool1", kernel_shape=[2], strides=[2])
    for i in (1, 2):
        at = g.filter(at, f"depth{i}", [5], 64, 64, group=64)
        at = g.filter(at, f"point{i}", [1], 64, 64)
    at = g.node("GlobalAveragePool", [at], "pooled")
    return g.model([40, 48], g.head(g.node("Flatten", [at], "flat"), 64))


def mobile() -> onnx.ModelProto:
    """MobileNet's blocks over 32 x 32 colours, their batch norms merged as exporters do."""
    g = _Graph()
    at = g.filter("x", "stem", [3, 3], 3, 16, stride=2, active="Clip")
    for i, (n_in, n_out, stride) in enumerate(((16, 16, 1), (16, 24, 2), (24, 24, 1)), start=1):
        start, wide = at, 4 * n_in
        at = g.filter(at, f"widen{i}", [1, 1], n_in, wide, active="Clip")
        at = g.filter(at, f"depth{i}", [3, 3], wide, wide, stride, group=wide, active="Clip")
        at = g.filter(at, f"narrow{i}", [1, 1], wide, n_out, active="")
        if n_in == n_out and stride == 1:
            at = g.node("Add", [start, at], f"sum{i}")
    at = g.node("GlobalAveragePool", [at], "pooled")
    return g.model([3, 32, 32], g.head(g.node("Flatten", [at], "flat"), 24))


def lstm() -> onnx.ModelProto:
    """The last state of an LSTM of 64 over 28 rows of 28 pixels."""
    g = _Graph()
    n_in, size = 28, 64
    names = [
        g.weight("rnn.W", (1, 4 * size, n_in), n_in, size),
        g.weight("rnn.R", (1, 4 * size, size), size, size),
        g.weight("rnn.B", (1, 8 * size), size, size),
    ]
    steps = g.node("Transpose", ["x"], "steps", perm=[1, 0, 2])
    made = helper.make_node("LSTM", [steps, *names], ["", "last"], name="rnn", hidden_size=size)
    g.nodes.append(made)
    return g.model([28, 28], g.head(g.node("Squeeze", ["last", g.ints(0)], "flat"), size))


def transformer() -> onnx.ModelProto:
    """A transformer block of four heads over 16 places of 64 features, and their mean."""
    g = _Graph()
    size, heads, places = 64, 4, 16
    each = size // heads
    normal, parts = g.normed("x", "before", size), {}
    for name in ("q", "k", "v"):
        split = g.node(
            "Reshape", [g.linear(normal, name, size, size), g.ints(-1, places, heads, each)],
            f"{name}.split",
        )  # fmt: skip
        perm = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        parts[name] = g.node("Transpose", [split], f"{name}.heads", perm=perm)
    scores = g.node("MatMul", [parts["q"], parts["k"]], "scores")
    scaled = g.node("Mul", [scores, g.scalar(each**-0.5)], "scaled")
    mixed = g.node("MatMul", [g.node("Softmax", [scaled], "p", axis=-1), parts["v"]], "mixed")
    back = g.node("Transpose", [mixed], "back", perm=[0, 2, 1, 3])
    joined = g.node("Reshape", [back, g.ints(-1, places, size)], "joined")
    first = g.node("Add", ["x", g.linear(joined, "out", size, size)], "first")
    inner = g.linear(g.normed(first, "after", size), "widen", size, 4 * size)
    inner = g.linear(g.node("Relu", [inner], "inner"), "narrow", 4 * size, size)
    mean = g.node("ReduceMean", [g.node("Add", [first, inner], "second")], "mean", axes=[1],
                  keepdims=0)  # fmt: skip
    return g.model([places, size], g.head(mean, size))


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model to a file."""
    onnx.save(model, path)
