"""Running small graphs while compiling, on the ONNX Runtime that is installed here."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime

from coordinator.compiler import convert
from coordinator.compiler.graph import FLOAT32, Array, Graph, Node, TensorType


def session(data: bytes) -> Any:
    """A session on one thread that logs nothing. Raises what ONNX Runtime raises."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def result(node: Node, feeds: Mapping[str, Array]) -> Array:
    """The first output, float32, of one node whose first input is float32 and fed.

    The node's other inputs are fed as constants.
    """
    (first, x), *rest = feeds.items()
    graph = Graph([node], dict(rest))
    signature = convert.Signature(
        {first: TensorType(FLOAT32, x.shape)}, {node.outputs[0]: TensorType(FLOAT32, None)}
    )
    made = session(convert.bytes_of(convert.model_of(graph, signature)))
    return np.asarray(made.run(None, {first: x})[0])
