"""The gradient of a graph, by the training build's own builder.

`GradientGraphBuilder` is in the compiled part of `onnxruntime-training-cpu`; that package's Python
part would import torch, and is not needed.
"""

import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import onnx

from coordinator.compiler import convert, simplify, slopes
from coordinator.compiler.errors import CompileError, in_short
from coordinator.compiler.graph import Array, Graph, Node, TensorType, in_order
from coordinator.compiler.operators import GRADIENTS, OPERATORS

OWN = "ATen"
"""The operator that the builder puts where a gradient of ours goes (`registry.gradient`). It can
have any number of inputs and outputs, and the builder infers nothing about them."""
_STAND_INS = {"Pow": "Mod"}
"""The builder passes no gradient to Pow's exponent, whatever its registered gradient says. So it is
shown another operator of the same signature, one that it otherwise never sees (no gradient passes).
"""

_INSTALL = (
    "compiling needs ONNX Runtime's training build, and it is not installed here: "
    "pip install 'lamplighter[coordinator]' on Python 3.11 or 3.12, Linux x86-64, in an "
    "environment without the stock onnxruntime. A plan compiled on another machine "
    "(coordinator compile TASK.toml -o DIRECTORY) serves here as well"
)


def differentiate(
    graph: Graph, inputs: Mapping[str, TensorType], weights: Mapping[str, Array], loss: str
) -> Graph:
    """The graph with the nodes that compute `<weight>_grad` for each weight.

    The gradient of the loss by itself is the constant `<loss>_grad`. Gradient nodes are named
    `<node>_Grad/...` after the node they are the gradient of; where it is our own, it is the
    operator `OWN`. Raises `CompileError` when the training build is missing or the builder refuses.
    """
    builder_class = training_build()
    _register_own()
    beside = [node for node in graph.nodes if _stops(graph, node)]
    shown = _shown(graph, weights, loss)
    model = _model(graph, shown, {**inputs, **_types(graph, beside)}, loss)
    built = _built(builder_class, model, set(weights), loss)
    result = graph.copy()
    whole = {node.name: node for node in graph.nodes if node.op in _STAND_INS}
    result.nodes = [whole.get(node.name) or convert.node_of(node) for node in built.node]
    if beside:
        result.nodes = in_order([*beside, *result.nodes])
    for tensor in built.initializer:
        if tensor.name not in shown.constants:
            result.constants[tensor.name] = convert.array_of(tensor)
    for info in built.value_info:
        if info.name not in result.types and (found := convert.type_of(info)) is not None:
            result.types[info.name] = found
    slopes.put_back(result, graph)
    return result


def _shown(graph: Graph, weights: Mapping[str, Array], loss: str) -> Graph:
    """What the builder is to see of a graph: the way to the loss, the weights as constants."""
    shown = graph.copy()
    shown.slopes.clear()  # what they are of, the builder need not see
    simplify.prune(shown, [loss])
    shown.nodes = [
        replace(node, op=_STAND_INS.get(node.op, node.op))
        for node in shown.nodes
        if not _stops(graph, node)
    ]
    shown.constants.update(weights)
    return shown


def _model(
    graph: Graph, shown: Graph, inputs: Mapping[str, TensorType], loss: str
) -> onnx.ModelProto:
    """It as a model in which every type that is known is said: the builder infers few."""
    model = convert.model_of(shown, convert.Signature(inputs, {loss: graph.types[loss]}))
    known = _types(graph, shown.nodes)
    model.graph.value_info.extend(convert.info_of(n, t) for n, t in known.items() if n != loss)
    return model


def _types(graph: Graph, nodes: Iterable[Node]) -> dict[str, TensorType]:
    """What is known of that which these nodes make."""
    return {o: graph.types[o] for node in nodes for o in node.outputs if o in graph.types}


def _built(
    builder_class: Any, model: onnx.ModelProto, weights: set[str], loss: str
) -> onnx.GraphProto:
    """The model's graph with its gradient."""
    with _quiet():
        try:
            builder = builder_class(convert.bytes_of(model), {loss}, weights, loss)
            builder.build()
            raw = builder.get_model()
        except Exception as error:  # noqa: BLE001  (the builder raises plain RuntimeError)
            raise CompileError(
                f"ONNX Runtime cannot differentiate this model: {in_short(error)}"
            ) from None
    return onnx.load_model_from_string(raw).graph


def _stops(graph: Graph, node: Node) -> bool:
    """Whether the builder must not see this node, as it would ask for its gradient.

    It knows that none passes a tensor that holds no real numbers.
    """
    entry = OPERATORS.get(node.op)
    if entry is None or not entry.stops or node.domain:
        return False
    return any(o in graph.types and graph.types[o].dtype.kind == "f" for o in node.outputs)


def _register_own() -> None:
    """Tell the builder of the gradients that are ours."""
    from onnxruntime.capi import _pybind_state

    for op, own in GRADIENTS.items():
        attribute = _pybind_state.GradientNodeAttributeDefinition()
        attribute.name, attribute.value_json, attribute.dtype = "operator", json.dumps(op), "string"
        attribute.is_tensor = False
        definition = _pybind_state.GradientNodeDefinition()
        definition.op_type, definition.domain = OWN, "org.pytorch.aten"
        definition.inputs = ["GO(0)"]
        definition.outputs = [f"GI({i})" for i in range(own.inputs)]
        definition.attributes = [attribute]
        _pybind_state.register_gradient_definition(f"::{_STAND_INS.get(op, op)}", [definition])


def training_build() -> Any:
    """The builder's class. Raises `CompileError` where the training build is not installed."""
    try:
        from onnxruntime.capi import _pybind_state
    except ImportError:
        raise CompileError(_INSTALL) from None
    found = getattr(_pybind_state, "GradientGraphBuilder", None)
    if found is None:
        raise CompileError(_INSTALL)
    return found


_lock = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Send what compiled code writes to standard error nowhere.

    The builder logs at every call, whatever severity ONNX Runtime is told to log from.
    """
    with _lock:
        sys.stderr.flush()
        saved = os.dup(2)
        try:
            with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
                os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
