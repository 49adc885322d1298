"""ONNX's own function bodies: how the specification itself writes an operator in simpler ones."""

from typing import Any

import numpy as np
import onnx
from onnx import defs, helper, inliner, shape_inference

from coordinator.compiler import convert
from coordinator.compiler.graph import IR_VERSION, OPSET, Array, Emitter, Graph, Node


def has_body(op: str, opset: int = OPSET) -> bool:
    """Whether the specification of this operator set has a function body for the operator."""
    try:
        schema: Any = defs.get_schema(op, opset, "")
    except defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def written_out(emit: Emitter, node: Node) -> list[str] | None:
    """An expansion by the operator's function body; None if it has none. Types must be known."""
    if not has_body(node.op):
        return None
    body = _inlined(_with_defaults(convert.proto_of(node), OPSET), emit.graph)
    if body is None or any(raw.op_type == node.op for raw in body):
        return None
    names = {name: name for name in node.inputs}
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
    new = {
        node.op_type
        for node in proto.graph.node
        if _since(node.op_type, OPSET) is None and has_body(node.op_type, opset)
    }
    if not new:
        return proto
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


def _since(op: str, opset: int) -> int | None:
    try:
        return int(defs.get_schema(op, opset, "").since_version)
    except defs.SchemaError:
        return None


def _with_defaults(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    """The node with its attributes' defaults spelt out: a body refers to them."""
    result = onnx.NodeProto()
    result.CopyFrom(node)
    given = {attribute.name for attribute in node.attribute}
    for name, entry in defs.get_schema(node.op_type, opset, "").attributes.items():
        if name not in given and entry.default_value.name:
            result.attribute.append(entry.default_value)
    return result


def _inlined(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto] | None:
    inputs = [
        convert.info_of(name, convert.type_in(graph, name))
        for name in dict.fromkeys(node.input)
        if name
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
