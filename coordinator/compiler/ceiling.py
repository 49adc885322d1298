"""Pools in `ceil_mode`, written as ordinary ones.

Runtimes and versions of ONNX differ in it: whether a window may begin in the pads after the end,
and whether what lies beyond the pads counts in a mean. It may not, and does not, here: as in
PyTorch, and in ONNX from operator set 22 on.
"""

from dataclasses import replace

from coordinator.compiler.graph import Emitter, Graph, Node
from coordinator.compiler.operators.windows import Windows, windows_of, with_explicit_pads

_POOLS = ("AveragePool", "LpPool", "MaxPool")


def floored(graph: Graph, node: Node) -> list[Node]:
    """The node, or nodes that pool as it does without `ceil_mode`. Its input's shape is known."""
    if node.op not in _POOLS or not node.attributes.get("ceil_mode", 0):
        return [node]
    size = graph.fixed(node.inputs[0], slice(2, None))
    windows = windows_of(graph, node)
    attributes = {k: v for k, v in with_explicit_pads(node, windows).items() if k != "ceil_mode"}
    rest = tuple(_rest(windows, size, axis) for axis in range(windows.rank))
    if not any(rest):
        return [replace(node, attributes=attributes)]
    counted = attributes.pop("count_include_pad", 0)
    if not counted or not any(windows.pads):
        after = [a + r for a, r in zip(windows.after, rest, strict=True)]
        attributes["pads"] = [*windows.before, *after]
        return [replace(node, attributes=attributes)]
    # The pads count and what is beyond does not: the pads become part of the input.
    emit = Emitter(graph, node.name)
    padded = emit.name()
    pads = emit.ints(0, 0, *windows.before, 0, 0, *windows.after)
    attributes["pads"] = [*[0] * windows.rank, *rest]
    return [
        Node("Pad", (node.inputs[0], pads), (padded,), name=f"{node.name}.{padded}"),
        replace(node, inputs=(padded,), attributes=attributes),
    ]


def _rest(windows: Windows, size: tuple[int, ...], axis: int) -> int:
    """How far the last window on an axis reaches beyond the pads."""
    before, after = windows.before[axis], windows.after[axis]
    stride, extent = windows.strides[axis], windows.extent[axis]
    last = -(-(size[axis] + before + after - extent) // stride) * stride
    if last >= size[axis] + before:
        last -= stride
    return max(last + extent - size[axis] - before - after, 0)
