"""Which values an integer input may have: where it is an index, those that a table has.

What is out of it ends a device's training, since the runtime refuses the whole batch. So the plan
says what fits, and devices skip single examples, as those with labels that are no class.
"""

from msgspec import UNSET, UnsetType
from onnx import TensorProto

from coordinator.compiler.cost import VIEWS
from coordinator.compiler.graph import Graph, Node

_ON = VIEWS | {"Transpose", "Expand"}
_WHOLE = (TensorProto.INT32, TensorProto.INT64)


def allowed(graph: Graph, name: str) -> tuple[float, float] | UnsetType:
    """The least and the greatest value of an input that goes to a Gather as it is, all of it. A
    negative index counts from the end, as ONNX has it."""
    names, lengths = {name}, []
    for node in graph.nodes:
        if node.op in ("Gather", "GatherElements") and node.inputs[1] in names:
            length = _length(graph, node)
            lengths += [length] if length else []
        if _hands_on(node) and node.inputs[0] in names:
            names.update(node.outputs)
    return (float(-min(lengths)), float(min(lengths) - 1)) if lengths else UNSET


def _hands_on(node: Node) -> bool:
    """Whether every value of the first input comes out as it was."""
    return node.op in _ON or (node.op == "Cast" and node.attributes["to"] in _WHOLE)


def _length(graph: Graph, node: Node) -> int | None:
    """How many places there are to choose from; None where that varies."""
    length = graph.shape(node.inputs[0])[int(node.attributes.get("axis", 0))]
    return length if isinstance(length, int) else None
