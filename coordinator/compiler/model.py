"""Reading the user's model: checked, in the working operator set, with a batch axis that varies.

What comes out is a graph under names of our own (see `graph.py`), and what the model calls its
inputs, outputs and weights. Every refusal is a `CompileError` that says what to do.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import checker

from coordinator.compiler import (
    bodies,
    boundary,
    classical,
    convert,
    opsets,
    shapes,
    simplify,
    specification,
)
from coordinator.compiler.errors import CompileError, in_short
from coordinator.compiler.graph import (
    BATCH,
    IR_VERSION,
    Array,
    Graph,
    Node,
    TensorType,
    describe,
)
from coordinator.compiler.shape_checks import check_shapes

INPUT_TYPES = ("float32", "float64", "int32", "int64", "uint8", "bool")
WEIGHTS_LIMIT = 1 << 30
"""Bytes of constants in a model, at most: twice that must fit in one protobuf message."""


@dataclass(frozen=True)
class Model:
    """A model ready to be compiled.

    `inputs` and `outputs` map the model's own names to the graph's. `weights` maps the graph's
    names of its floating-point initialisers to the model's, and `values` holds them: the graph
    has their types but, as any may be trained, not their values. `still` are those of them that
    are not, whatever the task's patterns say.
    """

    graph: Graph
    inputs: dict[str, str]
    outputs: dict[str, str]
    weights: dict[str, str]
    values: dict[str, Array]
    still: frozenset[str] = frozenset()


@boundary.one_reading_error
def load(path: Path) -> Model:
    """Read and check a model. Raises `CompileError`."""
    proto = classical.standard(_parse(path))
    _check_operators(proto)
    _refuse_large(proto.ByteSize())
    proto = opsets.working(proto)
    model = _ours(proto)
    fixed = _free_batch(model)
    _check_weights(model)
    check_shapes(model.graph, model.inputs.values())
    shapes.infer(model.graph, (*model.inputs.values(), *model.weights), fixed)
    simplify.fold(model.graph)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CompileError(f"{path}: a pipe or a device, not a file")
        _refuse_large(path.stat().st_size, str(path))
        proto = onnx.load(str(path), load_external_data=False)
    except CompileError:
        raise
    except FileNotFoundError:
        raise CompileError(f"{path}: there is no such file") from None
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001  (protobuf raises its own kinds)
        raise CompileError(f"{path}: not an ONNX file, or cut short ({in_short(error)})") from None
    if not proto.graph.node:
        raise CompileError(f"{path}: not an ONNX model, or one without any operator")
    _refuse_large(sum(map(_bytes_outside, proto.graph.initializer)))
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:  # noqa: BLE001  (onnx raises several kinds)
        raise CompileError(
            f"{path}: its weights are in a file beside it that cannot be read "
            f"({in_short(error)}); put that file back where the model was exported to"
        ) from None
    proto.ir_version = min(proto.ir_version, IR_VERSION)
    proto = bodies.without_deprecated(proto)
    try:
        checker.check_model(proto)
    except checker.ValidationError as error:
        raise CompileError(f"{path}: not a valid ONNX model: {in_short(error)}") from None
    return opsets.inlined(proto)


def _check_operators(proto: onnx.ModelProto) -> None:
    if proto.graph.sparse_initializer:
        raise CompileError("sparse weights are not supported; export the model with dense ones")
    for node in proto.graph.node:
        where = convert.where_of(node)
        if node.domain not in specification.DOMAINS:
            raise CompileError(
                f"operator {node.domain}.{node.op_type} ({where}) is not a standard ONNX "
                "operator; export the model without extensions and before any optimisation"
            )
        if "Sequence" in node.op_type or node.op_type.startswith("Optional"):
            raise CompileError(
                f"operator {node.op_type} ({where}) works with lists of tensors, which are not "
                "supported; export the model with tensors alone"
            )
        if any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
            raise CompileError(
                f"operator {node.op_type} ({where}) holds a graph of its own; loops and branches "
                "are not supported"
            )
        if node.op_type == "Constant" and not _ordinary(node.attribute):
            raise CompileError(
                f"operator Constant ({where}) holds text or a sparse tensor; only ordinary "
                "tensors of numbers are supported"
            )


def _ordinary(attributes: Iterable[onnx.AttributeProto]) -> bool:
    """Whether a constant is a number, some numbers or a tensor of them."""
    allowed = ("value_int", "value_ints", "value_float", "value_floats")
    return all(
        a.name in allowed or (a.name == "value" and a.t.data_type != onnx.TensorProto.STRING)
        for a in attributes
    )


def _refuse_large(size: int, what: str = "the model") -> None:
    if size > WEIGHTS_LIMIT:
        raise CompileError(f"{what} has {size} bytes; at most {WEIGHTS_LIMIT} are supported")


def _bytes_outside(tensor: onnx.TensorProto) -> int:
    """How many bytes of a tensor are in a file beside the model, by its shape."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return 0
    try:
        width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        return 0  # a type of no number: the checker says so
    return int(math.prod(tensor.dims) * width)


def _ours(proto: onnx.ModelProto) -> Model:
    """The model's graph under our names: tensors `m0`, `m1`, ..., nodes `n0`, `n1`, ..."""
    graph = Graph()
    names: dict[str, str] = {"": ""}

    def ours(name: str) -> str:
        if name not in names:
            names[name] = f"m{len(names) - 1}"
            graph.labels[names[name]] = f"tensor {name!r}"
        return names[name]

    weights, values = {}, {}
    for tensor in proto.graph.initializer:
        name, value = ours(tensor.name), convert.array_of(tensor)
        if value.dtype.kind != "f":
            graph.constants[name] = value
            continue
        weights[name], values[name] = tensor.name, value
        graph.types[name] = TensorType(value.dtype, value.shape)
        graph.labels[name] = f"weight {tensor.name!r}"
    inputs = {}
    for info in proto.graph.input:
        if ours(info.name) not in graph.constants and names[info.name] not in values:
            inputs[info.name] = ours(info.name)
            graph.labels[ours(info.name)] = f"input {info.name!r}"
            graph.types[ours(info.name)] = _input_type(info)
    for i, raw in enumerate(proto.graph.node):
        for name in (*raw.input, *raw.output):
            ours(name)
        node = convert.node_of(raw).renamed(names)
        if node.op == "Constant":
            graph.constants[node.outputs[0]] = convert.constant_of(node)
            continue
        graph.labels[f"n{i}"] = convert.where_of(raw)
        graph.nodes.append(Node(node.op, node.inputs, node.outputs, node.attributes, f"n{i}"))
    outputs = {info.name: names[info.name] for info in proto.graph.output}
    return Model(graph, inputs, outputs, weights, values)


def _input_type(info: onnx.ValueInfoProto) -> TensorType:
    known = convert.type_of(info)
    if known is None or known.shape is None:
        raise CompileError(f"input {info.name!r} has no type or shape; export the model with both")
    if known.dtype.name not in INPUT_TYPES:
        raise CompileError(
            f"input {info.name!r} is {known.dtype.name.replace('object', 'string')}; allowed are "
            f"{', '.join(INPUT_TYPES)}"
        )
    return known


def _free_batch(model: Model) -> int | None:
    """Let the first axis of every input vary. Returns the length it was fixed at, if it was."""
    lengths = set()
    for name, tensor in model.inputs.items():
        known = model.graph.types[tensor]
        shape = known.shape or ()
        if not shape:
            raise CompileError(f"input {name!r} is a scalar; every input needs a batch axis first")
        if not all(isinstance(n, int) for n in shape[1:]):
            raise CompileError(
                f"input {name!r} has the shape {describe(shape)}; only the batch, the first axis, "
                "may vary: export the model with the others fixed"
            )
        if 0 in shape[1:]:
            raise CompileError(
                f"input {name!r} has the shape {describe(shape)}: there is nothing in it; export "
                "the model with the lengths that its examples have"
            )
        if isinstance(shape[0], int):
            lengths.add(shape[0])
        model.graph.types[tensor] = TensorType(known.dtype, (BATCH, *shape[1:]))
    if len(lengths) > 1:
        raise CompileError(
            f"the inputs' first axes are fixed at {sorted(lengths)}; the first axis of every "
            "input must be the batch"
        )
    if not model.inputs:
        raise CompileError("the model has no input")
    return lengths.pop() if lengths else None


def _check_weights(model: Model) -> None:
    for name, value in model.values.items():
        if np.isnan(value).any():  # infinity may be a mask's; `trained.py` looks at weights
            raise CompileError(f"weight {model.weights[name]!r} holds NaN; export a sound model")
