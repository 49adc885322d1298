"""Make `turbofan.onnx`: `python -m examples.turbofan.make`."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from examples.turbofan import FOLDER

FEATURES, HIDDEN = 16, 48
_SEED = 9


def model() -> onnx.ModelProto:
    """16 -> 48 -> 1 with one ReLU, 865 weights: `x` float32 [batch, 16], standardised, to `left`
    [batch, 1], the standardised cycles that are left. Glorot-uniform weights of a fixed seed."""
    rng = np.random.default_rng(_SEED)

    def dense(name: str, n_in: int, n_out: int) -> list[onnx.TensorProto]:
        limit = np.sqrt(6 / (n_in + n_out))
        weight = rng.uniform(-limit, limit, (n_in, n_out)).astype(np.float32)
        return [
            numpy_helper.from_array(weight, f"{name}.weight"),
            numpy_helper.from_array(np.zeros(n_out, np.float32), f"{name}.bias"),
        ]

    nodes = [
        helper.make_node("Gemm", ["x", "hidden.weight", "hidden.bias"], ["hidden"], "hidden"),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node("Gemm", ["active", "out.weight", "out.bias"], ["left"], "out"),
    ]
    graph = helper.make_graph(
        nodes,
        "turbofan",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("left", TensorProto.FLOAT, ["batch", 1])],
        dense("hidden", FEATURES, HIDDEN) + dense("out", HIDDEN, 1),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write the file."""
    onnx.save(model(), FOLDER / "turbofan.onnx")


if __name__ == "__main__":
    main()
