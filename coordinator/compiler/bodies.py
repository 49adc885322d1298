"""ONNX's own function bodies: how the specification itself writes an operator in simpler ones."""

from collections.abc import Set
from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, inliner, numpy_helper, shape_inference

from coordinator.compiler import convert, specification
from coordinator.compiler.graph import IR_VERSION, OPSET, Array, Emitter, Graph, Node

_NESTED = 4
"""How deep a new operator's body may hold others: SwiGLU holds Swish, and nothing goes deeper."""


def has_body(op: str, opset: int = OPSET) -> bool:
    """Whether the specification of this operator set has a function body for the operator."""
    schema: Any = specification.schema(op, opset)
    if schema is None:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def written_out(emit: Emitter, node: Node) -> list[str] | None:
    """An expansion by the operator's function body; None if it has none. Types must be known."""
    if not has_body(node.op):
        return None
    body = _body(_with_defaults(convert.proto_of(node), OPSET), emit.graph)
    if body is None or any(raw.op_type == node.op for raw in body):
        return None
    names = {name: name for name in ("", *node.inputs)}
    for raw in body:
        inner = convert.node_of(raw)
        if inner.op == "Constant":
            names[inner.outputs[0]] = emit.const(*_constant(inner))
            continue
        inputs = [names[name] for name in inner.inputs]
        outputs = emit.ops(inner.op, inputs, len(inner.outputs), **inner.attributes)
        names.update(zip(inner.outputs, outputs, strict=True))
    return [names.get(name, "") for name in node.outputs]


def older(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model with operators that came after `OPSET` written out, where they have bodies."""
    for _ in range(_NESTED):
        new = {
            node.op_type
            for node in proto.graph.node
            if specification.schema(node.op_type) is None and has_body(node.op_type, opset)
        }
        if not new:
            break
        proto = _without(proto, opset, new)
    return proto


def _without(proto: onnx.ModelProto, opset: int, new: Set[str]) -> onnx.ModelProto:
    """The model with these operators written out, once."""
    whole = shape_inference.infer_shapes(proto)  # some bodies depend on the types
    for node in whole.graph.node:
        if node.op_type in new:
            node.CopyFrom(_with_defaults(node, opset))
    inputs = list(whole.graph.input)
    typed = {info.name for info in inputs}
    for tensor in whole.graph.initializer:  # the inliner knows the types of inputs only
        if tensor.name not in typed:
            whole.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    found: onnx.ModelProto = inliner.inline_selected_functions(
        whole, [("", op) for op in sorted(new)], inline_schema_functions=True
    )
    del found.graph.input[:]
    found.graph.input.extend(inputs)
    return found


def without_deprecated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with group norms of operator sets 18 to 20 written out.

    They have one scale and bias for each group, and so are instance norms of the groups. ONNX has
    withdrawn them: its checker and its converter refuse such a model.
    """
    norms = any(node.op_type == "GroupNormalization" for node in proto.graph.node)
    if not norms or not 18 <= specification.version(proto) < 21:
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    del result.graph.node[:]
    for node in proto.graph.node:
        is_norm = node.op_type == "GroupNormalization"
        result.graph.node.extend(_of_groups(node) if is_norm else [node])
        if is_norm:
            groups = [0, next(a.i for a in node.attribute if a.name == "num_groups"), -1]
            value = numpy_helper.from_array(np.array(groups, np.int64), f"{node.output[0]}.groups")
            result.graph.initializer.append(value)
    return result


def _of_groups(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    (x, scale, bias), (y,) = node.input, node.output
    flat, apart, normal, shape = (f"{y}.{part}" for part in ("flat", "apart", "normal", "shape"))
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    return [
        helper.make_node("Reshape", [x, f"{y}.groups"], [flat], f"{node.name}.flat"),
        # Right after a Reshape, `trained.py` would take a scale of 1 for an exporter's constant.
        helper.make_node("Identity", [flat], [apart], f"{node.name}.apart"),
        helper.make_node(
            "InstanceNormalization", [apart, scale, bias], [normal], node.name, epsilon=epsilon
        ),
        helper.make_node("Shape", [x], [shape], f"{node.name}.shape"),
        helper.make_node("Reshape", [normal, shape], [y], f"{node.name}.whole"),
    ]


def _with_defaults(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    """The node with its attributes' defaults spelt out: a body refers to them."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    given = {attribute.name for attribute in node.attribute}
    for name, entry in defs.get_schema(node.op_type, opset, "").attributes.items():
        if name not in given and entry.default_value.name:
            result.attribute.append(entry.default_value)
    return result


def _body(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    inputs = [
        convert.info_of(name, known)
        for name in dict.fromkeys(node.input)
        if (known := graph.type_of(name)) is not None
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    for info in outputs:
        if info.name in graph.types:
            info.CopyFrom(convert.info_of(info.name, graph.types[info.name]))
    model = helper.make_model(
        helper.make_graph([node], "body", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    try:
        whole = inliner.inline_selected_functions(
            model, [("", node.op_type)], inline_schema_functions=True
        )
    except Exception:  # noqa: BLE001  (the inliner raises plain RuntimeError)
        return None
    return list(whole.graph.node)


def _constant(node: Node) -> tuple[Array, np.dtype[np.generic]]:
    value = convert.constant_of(node)
    return value, value.dtype
