"""Shapes that cannot be, said of the operator where they begin.

ONNX's own inference lets some of them pass, and speaks of others where they come to light, which
may be many operators later. So what it can tell is looked at first, operator by operator.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import onnx
from onnx import shape_inference

from coordinator.compiler import convert
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Graph, Node, Shape, describe

_WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")


def check_shapes(graph: Graph, inputs: Iterable[str]) -> None:
    """Raise `CompileError` at the first operator that cannot work on what it gets. `inputs` are
    typed, as are all weights. What cannot be told yet is not judged."""
    told = _told(graph, [*inputs])
    for node in told.nodes:
        check = _CHECKS.get(node.op)
        if problem := (check(told, node) if check else None) or _nothing_left(told, node):
            raise CompileError(f"{graph.where(node)}: {problem}")


def _told(graph: Graph, inputs: list[str]) -> Graph:
    """The graph with every type that inference finds without insisting on the others."""
    weights = [n for n in graph.types if n not in inputs]
    signature = convert.Signature({n: graph.types[n] for n in (*inputs, *weights)}, {})
    model = convert.model_of(graph, signature)
    inferred: onnx.ModelProto = shape_inference.infer_shapes(model, data_prop=True)
    types = dict(graph.types)
    for info in inferred.graph.value_info:
        if (found := convert.type_of(info)) is not None:
            types[info.name] = found
    return replace(graph, types=types)


def _shape(graph: Graph, name: str) -> Shape | None:
    known = graph.type_of(name)
    return None if known is None else known.shape


def _conv(graph: Graph, node: Node) -> str | None:
    image, weight = (_shape(graph, n) for n in node.inputs[:2])
    if not image or not weight or len(image) < 2 or len(weight) < 2:
        return None
    if len(image) != len(weight):
        return (
            f"its weight {describe(weight)} has {len(weight)} axes and its input "
            f"{describe(image)} has {len(image)}"
        )
    group = int(node.attributes.get("group", 1))
    channels, wanted = image[1], weight[1]
    if not isinstance(channels, int) or not isinstance(wanted, int):
        return None
    if node.op == "Conv" and channels != wanted * group:
        return (
            f"its input {describe(image)} has {channels} channels, and its weight "
            f"{describe(weight)} wants {wanted * group}"
        )
    if node.op == "ConvTranspose" and channels != weight[0]:
        return (
            f"its input {describe(image)} has {channels} channels, and its weight "
            f"{describe(weight)} wants {weight[0]}"
        )
    return None


def _reshape(graph: Graph, node: Node) -> str | None:
    """Whether a target of numbers can hold an example. The batch may be any length."""
    source = _shape(graph, node.inputs[0])
    target = graph.constants.get(node.inputs[1])
    if source is None or target is None or node.attributes.get("allowzero", 0):
        return None
    wanted = [int(n) for n in target.ravel()]
    if any(n == 0 and i >= len(source) for i, n in enumerate(wanted)):
        return f"{wanted} copies an axis that its input {describe(source)} has not"
    kept = [source[i] if n == 0 else n for i, n in enumerate(wanted)]
    loose = [n for n in source if isinstance(n, str)]
    if loose and [n for n in kept if isinstance(n, str)] != loose:
        return None  # the batch goes elsewhere: not for us to say
    have = math.prod(n for n in source if isinstance(n, int))
    into = math.prod(n for n in kept if isinstance(n, int) and n != -1)
    fits = have == into or (-1 in kept and into > 0 and have % into == 0)
    return None if fits else f"{describe(source)} does not fit into {wanted}"


def _nothing_left(graph: Graph, node: Node) -> str | None:
    """A window that is larger than what it slides over leaves an axis of 0 or less."""
    if node.op not in _WINDOWS:
        return None
    made, given = _shape(graph, node.outputs[0]), _shape(graph, node.inputs[0])
    if made is None or given is None:
        return None
    left = all(isinstance(n, str) or n > 0 for n in made)
    if 0 in given or (left and not _too_large(graph, node, given)):
        return None
    return (
        f"its window is larger than its input {describe(given)}; "
        "export the model with the sizes that its examples have"
    )


def _too_large(graph: Graph, node: Node, given: Shape) -> bool:
    """Whether a window is larger than its padded input. Where that is by less than its stride,
    ONNX's inference sees one place for it, and the runtime none."""
    if node.op == "ConvTranspose" or node.attributes.get("ceil_mode", 0):
        return False  # the one has no such window, the other's may go beyond the end
    if node.attributes.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        return False
    kernel = node.integers("kernel_shape", ())
    weight = _shape(graph, node.inputs[1]) if node.op == "Conv" else None
    if not kernel and weight:
        kernel = tuple(n for n in weight[2:] if isinstance(n, int))
    rank = len(kernel)
    holes, pads = node.integers("dilations", [1] * rank), node.integers("pads", [0] * 2 * rank)
    return len(given) == rank + 2 and any(
        isinstance(n, int) and (k - 1) * d + 1 > n + before + after
        # Attributes may be too short: that is said elsewhere.
        for n, k, d, before, after in zip(
            given[2:], kernel, holes, pads[:rank], pads[rank:], strict=False
        )
    )


_CHECKS: Mapping[str, Callable[[Graph, Node], str | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Reshape": _reshape,
}
