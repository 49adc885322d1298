"""Make `digits.onnx` and its compiled plan: `python -m fleet.digits.make`."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coordinator import taskfile
from coordinator.compiler.compile import compile_beside
from coordinator.compiler.folder import write_plan_dir
from fleet.digits import FOLDER, PLAN, TASK

PIXELS, HIDDEN, CLASSES = 64, 32, 10


def model() -> onnx.ModelProto:
    """64 -> 32 -> 10 with one ReLU; Glorot-uniform weights of a fixed seed."""
    rng = np.random.default_rng(7)

    def dense(name: str, n_in: int, n_out: int) -> list[onnx.TensorProto]:
        limit = np.sqrt(6 / (n_in + n_out))
        weight = rng.uniform(-limit, limit, (n_in, n_out)).astype(np.float32)
        bias = np.zeros(n_out, np.float32)
        return [
            numpy_helper.from_array(weight, f"{name}.weight"),
            numpy_helper.from_array(bias, f"{name}.bias"),
        ]

    nodes = [
        helper.make_node("Gemm", ["x", "hidden.weight", "hidden.bias"], ["hidden"], "hidden"),
        helper.make_node("Relu", ["hidden"], ["active"], "relu"),
        helper.make_node("Gemm", ["active", "out.weight", "out.bias"], ["logits"], "out"),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", PIXELS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        dense("hidden", PIXELS, HIDDEN) + dense("out", HIDDEN, CLASSES),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write the files."""
    onnx.save(model(), FOLDER / "digits.onnx")
    task = taskfile.load(TASK)
    write_plan_dir(compile_beside(task, FOLDER), PLAN)


if __name__ == "__main__":
    main()
