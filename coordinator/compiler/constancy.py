"""Tensors that hold one number throughout, however many elements they have.

An exporter that wants a state of zeros for each example computes it from the batch's length; so
it is no constant, but its value is known all the same.
"""

import numpy as np

from coordinator.compiler.graph import Graph, Node

_REARRANGES = (
    "Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose",
    "Unsqueeze",
)  # fmt: skip


def filled(graph: Graph, name: str) -> float | None:
    """The number that every element of this tensor has, or None if that is not known."""
    return _filled(graph, graph.producers(), name)


def _filled(graph: Graph, made: dict[str, Node], name: str) -> float | None:
    while True:
        if name in graph.constants:
            value = graph.constants[name]
            first = value.ravel()[0] if value.size else np.float32(np.nan)
            return float(first) if bool((value == first).all()) else None
        node = made.get(name)
        if node is None or node.domain:
            return None
        if node.op == "ConstantOfShape":
            given = node.attributes.get("value")
            return 0.0 if given is None else float(np.asarray(given).ravel()[0])
        if node.op == "Concat":
            found = {_filled(graph, made, part) for part in node.inputs}
            return found.pop() if len(found) == 1 else None
        if node.op not in _REARRANGES:
            return None
        name = node.inputs[0]
