"""FedAvg's two models (McMahan et al., 2017), with Glorot-uniform weights of a fixed seed."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PIXELS, CLASSES = 784, 10


class Graph:
    """Nodes and weights as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(5)

    def weight(self, name: str, shape: tuple[int, ...], fan_in: int, fan_out: int) -> str:
        """A Glorot-uniform weight."""
        limit = np.sqrt(6 / (fan_in + fan_out))
        values = self._rng.uniform(-limit, limit, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def bias(self, name: str, size: int) -> str:
        """A bias of zeros."""
        self.weights.append(numpy_helper.from_array(np.zeros(size, np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node with one output."""
        made = helper.make_node(kind, inputs, [output], name=output, **attributes)
        self.nodes.append(made)
        return output

    def dense(self, x: str, name: str, n_in: int, n_out: int) -> str:
        """x W + b."""
        weight = self.weight(f"{name}.weight", (n_in, n_out), n_in, n_out)
        return self.node("Gemm", [x, weight, self.bias(f"{name}.bias", n_out)], name)

    def conv(self, x: str, name: str, n_in: int, n_out: int) -> str:
        """5x5 convolution of the same size, ReLU, 2x2 max pooling."""
        weight = self.weight(f"{name}.weight", (n_out, n_in, 5, 5), n_in * 25, n_out * 25)
        bias = self.bias(f"{name}.bias", n_out)
        made = self.node("Conv", [x, weight, bias], name, kernel_shape=[5, 5], pads=[2, 2, 2, 2])
        active = self.node("Relu", [made], f"{name}.relu")
        return self.node("MaxPool", [active], f"{name}.pool", kernel_shape=[2, 2], strides=[2, 2])

    def model(self, shape: list[int], output: str) -> onnx.ModelProto:
        """The whole, from `x` of [batch, *shape] to logits."""
        graph = helper.make_graph(
            self.nodes,
            "model",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", CLASSES])],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def two_nn() -> onnx.ModelProto:
    """784 -> 200 -> 200 -> 10, ReLU between: 199,210 weights."""
    g = Graph()
    first = g.node("Relu", [g.dense("x", "first", PIXELS, 200)], "first.relu")
    second = g.node("Relu", [g.dense(first, "second", 200, 200)], "second.relu")
    return g.model([PIXELS], g.dense(second, "logits", 200, CLASSES))


def cnn() -> onnx.ModelProto:
    """Two 5x5 convolutions (32, 64) with 2x2 max pooling, 512, 10: 1,663,370 weights."""
    g = Graph()
    pooled = g.conv(g.conv("x", "conv1", 1, 32), "conv2", 32, 64)
    flat = g.node("Flatten", [pooled], "flat")
    hidden = g.node("Relu", [g.dense(flat, "hidden", 7 * 7 * 64, 512)], "hidden.relu")
    return g.model([1, 28, 28], g.dense(hidden, "logits", 512, CLASSES))
