"""Small models and tasks for the compiler's tests, and ways to run what it makes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from coordinator.compiler.compile import CompiledPlan, compile_task
from coordinator.compiler.errors import CompileError
from coordinator.compiler.folder import write_plan_dir
from coordinator.taskfile import TaskFile, parse

FLOAT = onnx.TensorProto.FLOAT
INT64 = onnx.TensorProto.INT64

Shape = Sequence[int | str]


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are words, `_` is one left out."""
    words = [["" if w == "_" else w for w in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *words, name=name or None, **attributes)


def weights(seed: int = 0, /, **shapes: Sequence[int]) -> dict[str, np.ndarray]:
    """Random float32 weights by name; `__` in a name stands for a dot."""
    rng = np.random.default_rng(seed)
    return {
        name.replace("__", "."): np.asarray(rng.normal(size=shape, scale=0.4), np.float32)
        for name, shape in shapes.items()
    }


def f32(*numbers: float) -> np.ndarray:
    """A constant: of one number a scalar."""
    return np.asarray(numbers if len(numbers) != 1 else numbers[0], np.float32)


def ints(*numbers: int) -> np.ndarray:
    """A constant of axes, lengths or places."""
    return np.array(numbers, np.int64)


def read_by(
    nodes: Sequence[onnx.NodeProto], constants: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Those of the constants that the nodes read."""
    read = {name for made in nodes for name in made.input}
    return {name: value for name, value in constants.items() if name in read}


def model(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, np.ndarray],
    x: Shape = ("N", 4),
    outputs: Sequence[str] = ("out",),
    *,
    inputs: Mapping[str, tuple[int, Shape]] | None = None,
    opset: int = 17,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A model with the float32 input `x` (or these inputs) and float32 outputs."""
    given = inputs or {"x": (FLOAT, x)}
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info(n, t, list(s)) for n, (t, s) in given.items()],
        [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    made.ir_version = ir_version
    made = onnx.shape_inference.infer_shapes(made)
    for info in made.graph.output:  # the checker wants a shape, also where there is none to tell
        if not info.type.tensor_type.HasField("shape"):
            info.type.tensor_type.shape.dim.add(dim_param="unknown")
    return made


def dense(hidden: int = 5, classes: int = 3, features: int = 4, **kwargs: Any) -> onnx.ModelProto:
    """A perceptron with one hidden layer; weights w1, b1, w2, b2."""
    nodes = [
        node("Gemm", "x w1 b1", "h", "first", transB=1),
        node("Relu", "h", "r", "relu"),
        node("Gemm", "r w2 b2", "out", "second", transB=1),
    ]
    values = weights(w1=(hidden, features), b1=(hidden,), w2=(classes, hidden), b2=(classes,))
    return model(nodes, values, ("N", features), **kwargs)


def task(
    loss: str = "cross_entropy",
    optimizer: str = 'kind = "sgd"\nlearning_rate = 0.1',
    *,
    metrics: Sequence[str] = ("loss",),
    frozen: Sequence[str] = (),
    more: str = "",
    proximal: float = 0.0,
    rest: str = "",
    model: str = "",
) -> TaskFile:
    """A task; `more` and `model` are further lines of their tables, `rest` further tables."""
    return parse(
        f"""
        name = "test"
        [model]
        file = "model.onnx"
        frozen = {list(frozen)!r}
        {model}
        [loss]
        kind = "{loss}"
        {more}
        [optimizer]
        {optimizer}
        [training]
        metrics = {list(metrics)!r}
        proximal = {proximal}
        [round]
        goal = 2
        {rest}
        """
    )


def compiled(proto: onnx.ModelProto, tmp_path: Path, spec: TaskFile | None = None) -> CompiledPlan:
    """Compile a model, and leave the plan in `tmp_path / "plan"`."""
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    plan = compile_task(spec or task(), path)
    write_plan_dir(plan, tmp_path / "plan")
    return plan


def refused(proto: onnx.ModelProto, tmp_path: Path, spec: TaskFile, *parts: str) -> None:
    """Assert that compiling fails, with a message that has all these parts."""
    with pytest.raises(CompileError) as caught:
        compiled(proto, tmp_path, spec)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """A session on one thread that complains of nothing less than an error."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run(made: onnxruntime.InferenceSession, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Outputs by name. Feeds that the session has no input for are left out."""
    wanted = {i.name for i in made.get_inputs()}
    names = [o.name for o in made.get_outputs()]
    given = {n: np.asarray(v) for n, v in feeds.items() if n in wanted}
    return dict(zip(names, made.run(names, given), strict=True))
