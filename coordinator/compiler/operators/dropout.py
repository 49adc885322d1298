"""Dropout. Its random numbers are inputs of train.onnx, drawn by the device (`Manifest.draws`).

So a plan has no generator of its own, whose numbers would differ from one runtime to the next, and
a training that goes on after a stop draws what it would have drawn.
"""

from collections.abc import Sequence

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import (
    BATCH,
    FLOAT,
    FLOAT32,
    Emitter,
    Graph,
    Node,
    TensorType,
    describe,
)
from coordinator.compiler.operators.registry import inference, operator, training
from coordinator.compiler.probes import multiple
from coordinator.compiler.simplify import RANDOM

operator(
    "Dropout",
    note="works in training, however it was exported: `model.dropout`; constant ratio",
)

_RATIO = 0.5  # ONNX's default


@training("Dropout")
def dropped(emit: Emitter, node: Node) -> Sequence[str]:
    """Y = X / (1 - ratio) where the number drawn is at least the ratio, else 0; and where that is.

    It is so whatever `training_mode` says: models are exported to be used, and this is training.
    """
    ratio = _ratio(emit, node)
    if ratio == 0:
        return _all(emit, node)
    x = node.inputs[0]
    keep = emit.op("GreaterOrEqual", _draw(emit, node), emit.const(ratio))
    factor = emit.op("Mul", emit.op("Cast", keep, to=FLOAT), emit.const(1 / (1 - ratio)))
    return [emit.op("Mul", x, factor), keep]


@inference("Dropout")
def kept(emit: Emitter, node: Node) -> Sequence[str]:
    """Y = X, and True everywhere."""
    return _all(emit, node)


def _refused(emit: Emitter, node: Node) -> None:
    """Other random numbers are drawn by the runtime: nobody could draw them again."""
    raise CompileError(
        f"operator {emit.graph.where(node)} takes random numbers, which would "
        "differ from runtime to runtime; export the model without it. Dropout is supported"
    )


for _op in RANDOM:
    training(_op)(_refused)


def _all(emit: Emitter, node: Node) -> list[str]:
    x = node.inputs[0]
    outputs = [emit.op("Identity", x)]
    if node.output(1):
        outputs.append(emit.op("ConstantOfShape", emit.op("Shape", x), value=np.array([True])))
    return outputs


def _ratio(emit: Emitter, node: Node) -> float:
    given = node.input(1)
    if not given:
        return _RATIO
    value = emit.graph.constants.get(given)
    if value is None or value.size != 1 or not 0 <= float(value.ravel()[0]) < 1:
        found = "no constant" if value is None else str(value.tolist())
        raise CompileError(
            f"the ratio of {emit.graph.where(node)} is {found}; it must be a "
            'number from 0 to below 1. model.dropout = "off" trains without'
        )
    return float(value.ravel()[0])


def _draw(emit: Emitter, node: Node) -> str:
    """A number for each element of the node's input."""
    shape = emit.graph.shape(node.inputs[0])
    varying = [i for i, n in enumerate(shape) if isinstance(n, str)]
    each = tuple(n for n in shape if isinstance(n, int))
    times = multiple(shape[varying[0]]) if len(varying) == 1 else None
    if times is None:
        raise CompileError(
            f"{emit.graph.where(node)} works on {describe(shape)}; one axis, the "
            'batch, must vary and all others be fixed. model.dropout = "off" trains without'
        )
    (place,) = varying
    if place == 0:
        drawn = _input(emit.graph, each if times == 1 else (times, *each))
        return drawn if times == 1 else emit.op("Reshape", drawn, emit.ints(-1, *each))
    drawn = _input(emit.graph, (*each[:place], times, *each[place:]))
    around = [*range(1, place + 1), 0, *range(place + 1, len(shape) + 1)]
    moved = emit.op("Transpose", drawn, perm=around)
    return emit.op("Reshape", moved, emit.ints(*each[:place], -1, *each[place:]))


def _input(graph: Graph, shape: tuple[int, ...]) -> str:
    """A new input for random numbers, of this shape for each example."""
    name = Emitter(graph).name()
    graph.draws[name] = shape
    graph.types[name] = TensorType(FLOAT32, (BATCH, *shape))
    return name
