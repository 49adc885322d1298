"""Between our graphs and ONNX's messages. The compiler works on the former alone."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from coordinator.compiler.graph import IR_VERSION, OPSET, Array, Graph, Node, TensorType


@dataclass(frozen=True)
class External:
    """Where a tensor's bytes lie: a file beside the graph's, and a place in it."""

    location: str
    offset: int
    length: int


@dataclass(frozen=True)
class Signature:
    """A graph's named inputs and outputs, in order, with their types."""

    inputs: Mapping[str, TensorType] = field(default_factory=dict)
    outputs: Mapping[str, TensorType] = field(default_factory=dict)


def node_of(proto: onnx.NodeProto) -> Node:
    """An ONNX node as ours."""
    attributes = {a.name: _plain(helper.get_attribute_value(a)) for a in proto.attribute}
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    return Node(
        proto.op_type, tuple(proto.input), tuple(proto.output), attributes, proto.name, domain
    )


def where_of(proto: onnx.NodeProto) -> str:
    """What to call a node of the user's model in a message."""
    if proto.name:
        return f"node {proto.name!r}"
    return f"the node that makes {next((o for o in proto.output if o), '')!r}"


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return array_of(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value


def constant_of(node: Node) -> Array:
    """The value of a `Constant` node."""
    ((kind, value),) = node.attributes.items()
    dtypes = {"value_int": np.int64, "value_ints": np.int64}
    if kind == "value":
        return np.asarray(value)
    return np.asarray(value, dtype=dtypes.get(kind, np.float32))


def proto_of(node: Node) -> onnx.NodeProto:
    """Our node as ONNX's; attributes in alphabetical order, so that bytes are the same."""
    proto = helper.make_node(
        node.op, node.inputs, node.outputs, name=node.name, domain=node.domain or None
    )
    for key in sorted(node.attributes):
        value = node.attributes[key]
        if isinstance(value, np.ndarray):
            value = numpy_helper.from_array(value)
        proto.attribute.append(helper.make_attribute(key, value))
    return proto


def array_of(proto: onnx.TensorProto) -> Array:
    """A tensor's values."""
    return np.asarray(numpy_helper.to_array(proto))


def type_of(info: onnx.ValueInfoProto) -> TensorType | None:
    """What a value info says, or None if it is no tensor or says nothing."""
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or tensor.elem_type == onnx.TensorProto.UNDEFINED:
        return None
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        return TensorType(dtype, None)
    dims = tensor.shape.dim
    return TensorType(
        dtype,
        tuple(
            int(d.dim_value) if d.HasField("dim_value") else d.dim_param or f"unknown_{i}"
            for i, d in enumerate(dims)
        ),
    )


def info_of(name: str, known: TensorType) -> onnx.ValueInfoProto:
    """A value info of that name and type; axes of unknown length stay unknown."""
    dims: list[int | str | None] | None = None
    if known.shape is not None:
        dims = [None if isinstance(n, str) and n.startswith("unk") else n for n in known.shape]
    element = helper.np_dtype_to_tensor_dtype(known.dtype)
    return helper.make_tensor_value_info(name, element, dims)


def model_of(
    graph: Graph, signature: Signature, external: Mapping[str, External] | None = None
) -> onnx.ModelProto:
    """The graph as an ONNX model of the working operator set.

    Constants named in `external` are not stored in the model but point into a file beside it.
    """
    external = external or {}
    initializers = []
    for name, value in graph.constants.items():
        if name in external:
            initializers.append(_external(name, value, external[name]))
        else:
            initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
            del initializers[-1].dims[:]  # ascontiguousarray makes scalars one-dimensional
            initializers[-1].dims.extend(value.shape)
    proto = helper.make_graph(
        [proto_of(node) for node in graph.nodes],
        "lamplighter",
        [info_of(name, known) for name, known in signature.inputs.items()],
        [info_of(name, known) for name, known in signature.outputs.items()],
        initializers,
    )
    model = helper.make_model(
        proto,
        producer_name="lamplighter",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    return model


def _external(name: str, value: Array, where: External) -> onnx.TensorProto:
    tensor = onnx.TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
        dims=value.shape,
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, text in (
        ("location", where.location),
        ("offset", str(where.offset)),
        ("length", str(where.length)),
    ):
        tensor.external_data.add(key=key, value=text)
    return tensor


def bytes_of(model: onnx.ModelProto) -> bytes:
    """The model's bytes: the same model always has the same ones."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data
