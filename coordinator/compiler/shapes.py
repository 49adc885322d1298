"""Types and shapes of every tensor of a model, with the batch axis followed through everything.

ONNX's own inference gives up on `Reshape` to [-1, 16] when the batch varies, and cannot know that
a shape computed from another tensor's begins with the batch. So each node is inferred for a few
made-up lengths of the batch (`probes.py`), and an axis whose length grows with it is that many
times the batch: `batch`, `batch*4`. On the way, shapes that do not depend on the batch become
constants, and reshapes and expansions are written with constants wherever they can be.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import replace

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference

from coordinator.compiler import ceiling, convert
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import (
    OPSET,
    Array,
    Emitter,
    Graph,
    Node,
    Shape,
    TensorType,
    describe,
)
from coordinator.compiler.probes import LENGTHS, SMALL, Outputs, Probes, joined, multiple, tried

_OPSETS = [helper.make_opsetid("", OPSET)]

_SHOWN = {
    "GroupNormalization": "InstanceNormalization",
    "MeanVarianceNormalization": "Softsign",
}
"""ONNX infers nothing for these operators, but does for others of the same types and shapes."""


def infer(graph: Graph, inputs: Iterable[str], fixed_batch: int | None = None) -> None:
    """Fill in `graph.types`; compute shapes that do not vary, rewrite reshapes that can be told.

    `inputs` are already typed. `fixed_batch` is the length that the batch axis had in the
    exported model, so that a reshape to [1, 16] in a model exported for one example is understood.
    Raises `CompileError` when the shapes contradict each other.
    """
    kept = set(inputs)
    made = {name for node in graph.nodes for name in node.outputs}
    graph.types = {n: t for n, t in graph.types.items() if n in kept or n not in made}
    update(graph, kept, fixed_batch)


def update(graph: Graph, inputs: Iterable[str], fixed_batch: int | None = None) -> None:
    """As `infer`, and what is known already of a tensor stays where nothing can be inferred."""
    probes = Probes(graph)
    old, graph.nodes = graph.nodes, []
    for original in old:
        nodes = [original]
        if not original.domain and original.inputs and graph.knows(original.inputs[0]):
            settled = _settled(graph, original, probes, fixed_batch)
            nodes = ceiling.floored(graph, settled)
        for node in nodes:
            _infer_node(graph, node, probes)
            values = probes.see(node)
            if values is None:
                graph.nodes.append(node)
            else:
                named = zip(node.outputs, values, strict=False)
                graph.constants.update((name, value) for name, value in named if name)


def _settled(graph: Graph, node: Node, probes: Probes, fixed_batch: int | None) -> Node:
    """The node with a constant for the shape that it reads, if there is one that will do."""
    if node.op == "CastLike" and (like := graph.type_of(node.inputs[1])) is not None:
        to = helper.np_dtype_to_tensor_dtype(like.dtype)
        return replace(node, op="Cast", inputs=node.inputs[:1], attributes={"to": int(to)})
    if node.op == "Resize":
        return _settled_resize(graph, node, probes, fixed_batch)
    if node.op not in ("Reshape", "Expand"):
        return node
    wanted = probes.elements(node.inputs[1])
    if wanted is None:
        return node
    shape = graph.shape(node.inputs[0])
    if node.op == "Expand":
        return _settled_expand(graph, node, shape, wanted)
    return _settled_reshape(graph, node, shape, wanted, fixed_batch)


def _settled_reshape(
    graph: Graph, node: Node, shape: Shape, wanted: Shape, fixed_batch: int | None
) -> Node:
    """Reshape to numbers, with -1 for the axis that holds the batch."""
    if not node.attributes.get("allowzero", 0):
        if any(n == 0 and i >= len(shape) for i, n in enumerate(wanted)):
            return node
        wanted = tuple(shape[i] if n == 0 else n for i, n in enumerate(wanted))
    if fixed_batch is not None:
        wanted = _freed(shape, wanted, fixed_batch)
    varying = [n for n in wanted if isinstance(n, str)]
    if -1 in wanted and len(varying) == 1 and 0 not in wanted:
        each, others = _size(shape), _size(tuple(n for n in wanted if n != -1))
        if each is not None and others is not None and each % others == 0:
            wanted = tuple(each // others if n == -1 else n for n in wanted)
    if len(varying) > 1 or (varying and -1 in wanted) or 0 in wanted:
        return node
    numbers = [-1 if isinstance(n, str) else int(n) for n in wanted]
    if node.inputs[1] in graph.constants and graph.constants[node.inputs[1]].tolist() == numbers:
        return replace(node, attributes={"allowzero": 0})
    target = Emitter(graph, node.name).ints(*numbers)
    return replace(node, inputs=(node.inputs[0], target), attributes={"allowzero": 0})


def _size(shape: Shape) -> int | None:
    """Elements of the shape for one example; None if the batch is not in it exactly once."""
    numbers = [n if isinstance(n, int) else multiple(n) for n in shape]
    if sum(isinstance(n, str) for n in shape) != 1 or None in numbers:
        return None
    return math.prod(n for n in numbers if n is not None)


def _freed(shape: Shape, wanted: Shape, fixed_batch: int) -> Shape:
    """The target with -1 in the place of the length at which the batch was fixed.

    As many elements come before it as before the batch's axis in `shape`, or more if that axis is
    joined of several. Where it is joined with another axis in the target, as 1 with 6, that is the
    one after it, but never the last: that holds features.
    """
    each = _size(shape)
    if each is None or any(isinstance(n, str) for n in wanted):
        return wanted
    numbers = [int(n) for n in wanted]
    others = math.prod(n for n in numbers if n != -1)
    if numbers.count(-1) > 1 or others == 0 or each * fixed_batch % others:
        return wanted
    numbers = [each * fixed_batch // others if n == -1 else n for n in numbers]
    start = next(i for i, n in enumerate(shape) if isinstance(n, str))
    before = math.prod(n for n in shape[:start] if isinstance(n, int))
    most = before * (multiple(shape[start]) or 1)
    places = [i for i in range(len(numbers)) if before <= math.prod(numbers[:i]) <= most]
    for i in [i for i in places if numbers[i] == fixed_batch] or places[:1]:
        if i and i == len(numbers) - 1 and numbers[i] != fixed_batch:
            i -= 1
        if numbers[i] % fixed_batch == 0:
            return (*numbers[:i], -1, *numbers[i + 1 :])
    return wanted


def _settled_expand(graph: Graph, node: Node, shape: Shape, wanted: Shape) -> Node:
    """Expand to numbers, with 1 for an axis that is as long as it should be."""
    offset = len(shape) - len(wanted)
    numbers = []
    for i, n in enumerate(wanted):
        if isinstance(n, str):
            if i + offset < 0 or shape[i + offset] != n:
                return node
            n = 1
        numbers.append(n)
    if node.inputs[1] in graph.constants:
        return node
    return replace(node, inputs=(node.inputs[0], Emitter(graph, node.name).ints(*numbers)))


def _settled_resize(graph: Graph, node: Node, probes: Probes, fixed_batch: int | None) -> Node:
    """Resize to numbers, without the axes that stay as they are, the batch among them."""
    wanted = probes.elements(node.input(3)) if node.input(3) else None
    if not wanted or node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return node
    shape = graph.shape(node.inputs[0])
    axes = [a % len(shape) for a in node.integers("axes", range(len(shape)))]
    sizes = {}
    for axis, n in zip(axes, wanted, strict=True):
        fixed = isinstance(shape[axis], str) and n == fixed_batch
        if n != shape[axis] and not fixed:
            sizes[axis] = n
    if not sizes:
        return replace(node, op="Identity", inputs=node.inputs[:1], attributes={})
    if any(isinstance(n, str) for n in sizes.values()):
        return node
    target = Emitter(graph, node.name).ints(*(int(n) for n in sizes.values()))
    return replace(
        node,
        inputs=(node.inputs[0], "", "", target),
        attributes={**node.attributes, "axes": list(sizes)},
    )


def _infer_node(graph: Graph, node: Node, probes: Probes) -> None:
    """Set the types of a node's outputs, as far as they can be told."""
    if node.domain:
        return
    known = {n: graph.type_of(n) for n in node.inputs if n}
    if any(k is None for k in known.values()):
        return
    types = {n: k for n, k in known.items() if k is not None}
    like = _likeness(node, types, probes)
    found = probes.known.get(like) if like else None
    if found is None:
        found = _outputs(graph, node, types, probes)
        if like:
            probes.known[like] = found
    for name, each in zip(node.outputs, found, strict=True):
        if not name or any(t is None for t in each):
            continue
        shapes = [t.shape for t in each if t is not None]
        dtype = next(t.dtype for t in each if t is not None)
        joint = _joined_shape(name, shapes)
        if joint is None and name in graph.types:
            continue
        graph.types[name] = TensorType(dtype, joint)


def _likeness(node: Node, types: dict[str, TensorType], probes: Probes) -> Hashable | None:
    """What nodes have in common whose outputs are of the same types; None if it takes too long to
    tell. The steps of a recurrent layer are all alike."""
    if any(isinstance(value, np.ndarray) for value in node.attributes.values()):
        return None
    inputs = []
    for name in node.inputs:
        tries = (probes.of(name) or ()) if name else ()
        inputs.append((types.get(name), tuple(value.tobytes() for value in tries)))
    attributes = repr(sorted(node.attributes.items()))
    return (node.op, attributes, tuple(inputs), tuple(map(bool, node.outputs)))


def _outputs(graph: Graph, node: Node, types: dict[str, TensorType], probes: Probes) -> Outputs:
    """What ONNX says of each output for each of the batch's lengths."""
    shown = replace(node, op=_SHOWN[node.op], attributes={}) if node.op in _SHOWN else node
    proto = convert.proto_of(shown)
    found = [_inferred(graph, node, proto, types, probes, i) for i in range(len(LENGTHS))]
    return [[one.get(name) for one in found] for name in node.outputs]


def _joined_shape(name: str, found: list[Shape | None]) -> Shape | None:
    shapes = [s for s in found if s is not None]
    if len(shapes) < len(found) or len({len(s) for s in shapes}) > 1:
        return None
    columns = zip(*shapes, strict=True)
    lengths = (joined([n if isinstance(n, int) else None for n in c]) for c in columns)
    return tuple(f"unknown_{name}_{i}" if n is None else n for i, n in enumerate(lengths))


def _inferred(
    graph: Graph,
    node: Node,
    proto: onnx.NodeProto,
    types: dict[str, TensorType],
    probes: Probes,
    place: int,
) -> dict[str, TensorType]:
    """What ONNX says of the outputs for one of the batch's lengths."""
    length = LENGTHS[place]
    given = {
        n: helper.make_tensor_type_proto(
            helper.np_dtype_to_tensor_dtype(t.dtype),
            None if t.shape is None else tried(t.shape, length),
        )
        for n, t in types.items()
    }
    data = {n: _tensor(v[place]) for n in types if (v := probes.of(n)) is not None}
    try:
        schema = defs.get_schema(proto.op_type, OPSET, "")
        found = shape_inference.infer_node_outputs(
            schema, proto, given, data, opset_imports=_OPSETS
        )
    except (shape_inference.InferenceError, defs.SchemaError) as error:
        text = " ".join(str(error).split())[:400].replace(str(length), "batch")
        shapes = ", ".join(
            "unknown" if t.shape is None else describe(t.shape) for t in types.values()
        )
        raise CompileError(
            f"the model's shapes do not fit together: {graph.where(node)} of {shapes}: {text}"
        ) from None
    return {name: known for name, t in found.items() if (known := _known(t)) is not None}


def _known(proto: onnx.TypeProto) -> TensorType | None:
    return convert.type_of(onnx.ValueInfoProto(type=proto))


def _tensor(value: Array) -> onnx.TensorProto:
    assert value.size <= SMALL
    return numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape))
