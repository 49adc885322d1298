"""Compiles the plans in this folder anew: `python -m tests.edge_agent.data.make`.

Needs the training build. `flowers` is a perceptron with one hidden layer, trained by SGD with
momentum on cross-entropy; `line` is a linear model, trained by plain SGD on the mean squared error;
`adamw` is `flowers` with AdamW, whose updates are coded with random draws. `proximal` and
`proximal_adamw` are `flowers` and `adamw` with a proximal term. `scaffold` is
`flowers` by plain SGD, with control variates, `dropout` is `flowers` with dropout after its hidden
layer. `personal` is `flowers` of which a device makes the last layer its own.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coordinator.compiler.compile import compile_task
from coordinator.compiler.folder import write_plan_dir
from coordinator.taskfile import parse
from tests.edge_agent.data import FOLDER

FLOWERS_TASK = """
name = "flowers"
[model]
file = "model.onnx"
[loss]
kind = "cross_entropy"
[optimizer]
kind = "sgd"
learning_rate = 0.1
momentum = 0.5
[training]
epochs = 3
batch = 10
metrics = ["loss", "accuracy"]
[upload]
codec = "float32"
[round]
goal = 1
over_selection = 2
"""

LINE_TASK = """
name = "line"
[model]
file = "model.onnx"
[loss]
kind = "mse"
[optimizer]
kind = "sgd"
learning_rate = 0.05
[training]
batch = 8
metrics = ["loss", "rmse"]
[round]
goal = 1
"""

ADAMW_TASK = """
name = "adamw"
[model]
file = "model.onnx"
[loss]
kind = "cross_entropy"
[optimizer]
kind = "adamw"
learning_rate = 0.01
[training]
epochs = 3
batch = 10
[upload]
codec = "uniform:8"
[round]
goal = 1
"""


PROXIMAL_TASK = FLOWERS_TASK.replace("flowers", "proximal").replace(
    "[training]", "[training]\nproximal = 0.5"
)
PROXIMAL_ADAMW_TASK = ADAMW_TASK.replace("adamw", "proximal-adamw", 1).replace(
    "[training]", "[training]\nproximal = 0.5"
)

SCAFFOLD_TASK = (
    FLOWERS_TASK.replace("flowers", "scaffold").replace("momentum = 0.5\n", "")
    + """
[aggregation]
kind = "scaffold"
devices = 10
max_steps = 30
"""
)


DROPOUT_TASK = FLOWERS_TASK.replace("flowers", "dropout")

PERSONAL_TASK = (
    FLOWERS_TASK.replace("flowers", "personal")
    + """
[personal]
epochs = 5
learning_rate = 0.2
weights = ["?2"]
"""
)


def _model(layers: list[tuple[int, int]], drop: bool = False) -> onnx.ModelProto:
    """Dense layers (inputs, outputs), a Relu between them, and half of its outputs dropped if so
    said; weights w1, b1, w2, b2, ..."""
    rng = np.random.default_rng(4)
    nodes, weights, value = [], [], "x"
    for number, (inputs, outputs) in enumerate(layers, start=1):
        if number > 1:
            nodes.append(helper.make_node("Relu", [value], [f"r{number}"]))
            value = f"r{number}"
            if drop:
                nodes.append(helper.make_node("Dropout", [value], [f"d{number}"]))
                value = f"d{number}"
        matrix = rng.normal(size=(inputs, outputs), scale=inputs**-0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(matrix, f"w{number}"))
        weights.append(numpy_helper.from_array(np.zeros(outputs, np.float32), f"b{number}"))
        nodes.append(
            helper.make_node("Gemm", [value, f"w{number}", f"b{number}"], [f"out{number}"])
        )
        value = f"out{number}"
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", layers[0][0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", layers[-1][1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    """Write the plans."""
    plans = {
        "flowers": (FLOWERS_TASK, [(4, 8), (8, 3)]),
        "line": (LINE_TASK, [(2, 1)]),
        "adamw": (ADAMW_TASK, [(4, 8), (8, 3)]),
        "proximal": (PROXIMAL_TASK, [(4, 8), (8, 3)]),
        "proximal_adamw": (PROXIMAL_ADAMW_TASK, [(4, 8), (8, 3)]),
        "scaffold": (SCAFFOLD_TASK, [(4, 8), (8, 3)]),
        "personal": (PERSONAL_TASK, [(4, 8), (8, 3)]),
        "dropout": (DROPOUT_TASK, [(4, 8), (8, 3)]),
    }
    for name, (definition, layers) in plans.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            onnx.save(_model(layers, drop=name == "dropout"), path)
            write_plan_dir(compile_task(parse(definition), path), FOLDER / name)
            (FOLDER / name / "task.toml").write_text(definition.lstrip())


if __name__ == "__main__":
    main()
