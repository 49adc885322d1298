"""Types and shapes of every tensor of a model, with the batch axis followed through reshapes.

ONNX's own inference gives up on `Reshape` to [-1, 16] when the batch varies, and cannot know that
a shape computed from another tensor's begins with the batch. So reshapes are settled here, one
after the other, each written as a constant target with -1 where the batch goes; then inference
runs again, with more to go on.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from onnx import shape_inference

from coordinator.compiler import convert
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import BATCH, Emitter, Graph, Node, Shape, TensorType

_INDEX_OPS = ("Shape", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Mul")

_SHOWN = {
    "GroupNormalization": "InstanceNormalization",
    "MeanVarianceNormalization": "Softsign",
}
"""ONNX infers nothing for these operators, but does for others of the same types and shapes."""


def infer(graph: Graph, inputs: Iterable[str], fixed_batch: int | None = None) -> None:
    """Fill in `graph.types`; rewrite reshapes whose target can be told.

    `inputs` are already typed. `fixed_batch` is the length that the batch axis had in the
    exported model, so that a reshape to [1, 16] in a model exported for one example is understood.
    Raises `CompileError` when the shapes contradict each other.
    """
    inputs = tuple(inputs)
    settled: set[str] = set()
    while True:
        # What was inferred from a reshape that has changed since does not hold any more.
        graph.types = {n: t for n, t in graph.types.items() if n in inputs or n in settled}
        update(graph, inputs)
        progress = False
        for i, node in enumerate(graph.nodes):
            if node.op != "Reshape" or node.outputs[0] in settled:
                continue
            target = _target(graph, node, fixed_batch)
            if target is None:
                continue
            settled.add(node.outputs[0])
            raw = [-1 if n == BATCH else int(n) for n in target]
            name = Emitter(graph, node.name).const(raw, np.int64)
            graph.nodes[i] = replace(
                node, inputs=(node.inputs[0], name), attributes={"allowzero": 0}
            )
            known = graph.types[node.inputs[0]]
            graph.types[node.outputs[0]] = TensorType(known.dtype, target)
            progress = True
            break  # what comes after must be inferred anew
        if not progress:
            return


def update(graph: Graph, inputs: Iterable[str]) -> None:
    """Run ONNX's inference over the graph, starting from the types already known."""
    inputs = tuple(inputs)
    known = {n: t for n, t in graph.types.items() if n not in inputs and t.shape is not None}
    signature = convert.Signature({n: graph.types[n] for n in inputs}, {})
    shown = graph.copy()
    shown.nodes = [replace(node, op=_SHOWN.get(node.op, node.op)) for node in graph.nodes]
    model = convert.model_of(shown, signature)
    model.graph.value_info.extend(convert.info_of(n, t) for n, t in known.items())
    try:
        inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = " ".join(lines)[:400]
        for name, label in graph.labels.items():
            if f"node name: {name})" in text:
                text = text.replace(f"node name: {name})", f"{label})")
        raise CompileError(f"the model's shapes do not fit together: {text}") from None
    for info in inferred.graph.value_info:
        found = convert.type_of(info)
        if found is not None:
            graph.types[info.name] = found


def _target(graph: Graph, node: Node, fixed_batch: int | None) -> Shape | None:
    """The shape that this Reshape makes, or None if it cannot be told (yet)."""
    source = graph.types.get(node.inputs[0])
    if source is None or source.shape is None:
        return None
    wanted = index_value(graph, node.inputs[1])
    if wanted is None:
        return None
    shape = source.shape
    if node.attributes.get("allowzero", 0) == 0:
        if any(n == 0 and i >= len(shape) for i, n in enumerate(wanted)):
            return None
        wanted = tuple(shape[i] if n == 0 else n for i, n in enumerate(wanted))
    batches = [n for n in shape if isinstance(n, str)]
    if not batches:
        return _settle(wanted, math.prod(int(n) for n in shape))
    if batches != [BATCH]:
        return None
    each = math.prod(int(n) for n in shape if n != BATCH)  # elements of one example
    if BATCH not in wanted:
        numbers = [int(n) for n in wanted]
        if -1 in numbers and math.prod(n for n in numbers if n != -1) == each:
            wanted = tuple(BATCH if n == -1 else n for n in numbers)
        elif fixed_batch is not None and numbers and numbers[0] == fixed_batch:
            wanted = (BATCH, *numbers[1:])
        else:
            return None
    if sum(n == BATCH for n in wanted) != 1:
        return None
    place = wanted.index(BATCH)
    rest = _settle((*wanted[:place], *wanted[place + 1 :]), each)
    return None if rest is None else (*rest[:place], BATCH, *rest[place:])


def _settle(wanted: Shape, size: int) -> Shape | None:
    """The shape with its -1, if any, worked out; None if it does not hold `size` elements."""
    if any(isinstance(n, str) for n in wanted):
        return None
    numbers = [int(n) for n in wanted]
    others = math.prod(n for n in numbers if n != -1)
    if numbers.count(-1) > 1 or others == 0 or size % others:
        return None
    settled = tuple(size // others if n == -1 else n for n in numbers)
    return settled if math.prod(settled) == size else None


def index_value(graph: Graph, name: str) -> Shape | None:
    """The elements of a small integer tensor computed from shapes, or None.

    An element that is the batch's length is `BATCH`.
    """
    if name in graph.constants:
        value = graph.constants[name]
        return tuple(int(n) for n in value.ravel()) if value.dtype.kind in "iu" else None
    node = next((n for n in graph.nodes if name in n.outputs), None)
    if node is None or node.op not in _INDEX_OPS:
        return None
    if node.op == "Shape":
        known = graph.types.get(node.inputs[0])
        if known is None or known.shape is None:
            return None
        start, end = node.attributes.get("start", 0), node.attributes.get("end", len(known.shape))
        return known.shape[start:end]
    values = [index_value(graph, n) for n in node.inputs]
    if any(v is None for v in values):
        return None
    first, *others = (v for v in values if v is not None)
    match node.op:
        case "Gather":
            chosen = [int(i) for i in others[0]]
            return tuple(first[i] for i in chosen) if _inside(chosen, first) else None
        case "Slice":
            steps = others[3] if len(others) > 3 else (1,)
            return first[int(others[0][0]) : int(others[1][0]) : int(steps[0])]
        case "Concat":
            return tuple(n for v in (first, *others) for n in v)
        case "Mul":
            if len(first) == len(others[0]) == 1 and isinstance(first[0], int):
                other = others[0][0]
                return (first[0] * other,) if isinstance(other, int) else None
            return None
        case _:  # Unsqueeze, Squeeze and Cast keep the elements
            return first


def _inside(chosen: list[int], values: Shape) -> bool:
    return all(-len(values) <= i < len(values) for i in chosen)
