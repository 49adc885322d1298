"""Batch norm: with its running statistics, or with those of each batch (`training_mode`).

X is [N, C, ...]; scale, bias and statistics are [C]. In training mode the operator also gives the
next running statistics; the variance in them is the batch's own (over N, not N - 1), as ONNX says.
"""

import math
from dataclasses import replace

from coordinator.compiler.graph import FLOAT, Emitter, Node
from coordinator.compiler.operators.registry import gradient, inference, lowering, operator

OP = "BatchNormalization"
operator(OP, weights=(1, 2), note="running statistics, or those of each batch: `model.batch_norm`")


def in_mode(node: Node, training: bool, outputs: tuple[str, ...]) -> Node:
    """The node in that mode."""
    attributes = {**node.attributes, "training_mode": int(training)}
    return replace(node, attributes=attributes, outputs=outputs)


@inference(OP)
def with_running_statistics(emit: Emitter, node: Node) -> list[str] | None:
    """The same with its running statistics."""
    if not _trains(node):
        return None
    calm = in_mode(node, False, node.outputs[:1])
    return [emit.op(OP, *calm.inputs, **calm.attributes)]


@lowering(OP)
def written_out(emit: Emitter, node: Node, forward: Node) -> list[str] | None:
    """Y = (X - mean) scale / deviation + bias, and the next running mean and variance.

    The gradient uses what is computed here: `simplify.py` merges what is emitted twice.
    """
    if not _trains(node):
        return None
    scale, bias, *running = node.inputs[1:]
    batch = _Batch(emit, node)
    steep = emit.op("Mul", batch.inverse, batch.wide(scale))
    y = emit.op("Add", emit.op("Mul", batch.centred, steep), batch.wide(bias))
    kept = float(node.attributes.get("momentum", 0.9))
    result = [y]
    for old, now in zip(running, (batch.mean, batch.variance), strict=True):
        share = emit.op("Mul", batch.narrow(now), emit.const(1 - kept))
        result.append(emit.op("Add", emit.op("Mul", old, emit.const(kept)), share))
    result[2] = _unless_alone(emit, node.inputs[0], result[2], running[1])
    return result[: len(node.outputs)]


def _unless_alone(emit: Emitter, x: str, new: str, old: str) -> str:
    """The new running variance, or the old where each channel has but one value: that of a last
    batch of one example says nothing, and is 0."""
    _, *size = emit.graph.fixed(x, slice(1, None))
    if math.prod(size) > 1:
        return new
    # Counted, as `probes.py` takes for a constant what is the same for the lengths that it tries.
    each = emit.op("Cast", emit.op("Equal", x, x), to=FLOAT)
    count = emit.op("ReduceSum", each, emit.ints(0, *range(2, len(size) + 2)), keepdims=0)
    return emit.op("Where", emit.op("Greater", count, emit.const(1)), new, old)


@gradient(OP, inputs=3)
def batch_norm_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """The gradients by X, scale and bias."""
    return (_batch_grad if _trains(forward) else _running_grad)(emit, node, forward)


def _trains(node: Node) -> bool:
    return bool(node.attributes.get("training_mode", 0))


def _epsilon(node: Node) -> float:
    return float(node.attributes.get("epsilon", 1e-5))


class _Channels:
    """The axes of a batch norm's input."""

    def __init__(self, emit: Emitter, node: Node) -> None:
        self.emit = emit
        rank = len(emit.graph.shape(node.inputs[0]))
        self.others = emit.ints(0, *range(2, rank))
        self._rest = tuple(range(1, rank - 1))

    def wide(self, name: str) -> str:
        """A tensor [C] as [C, 1, ...], which broadcasts to X."""
        return self.emit.op("Unsqueeze", name, self.emit.ints(*self._rest)) if self._rest else name

    def narrow(self, name: str) -> str:
        """A tensor [1, C, 1, ...] as [C]."""
        return self.emit.op("Squeeze", name, self.others)


class _Batch(_Channels):
    """The statistics of the batch, [1, C, 1, ...]."""

    def __init__(self, emit: Emitter, node: Node) -> None:
        super().__init__(emit, node)
        x = node.inputs[0]
        self.mean = emit.op("ReduceMean", x, self.others, keepdims=1)
        self.centred = emit.op("Sub", x, self.mean)
        square = emit.op("Mul", self.centred, self.centred)
        self.variance = emit.op("ReduceMean", square, self.others, keepdims=1)
        shifted = emit.op("Add", self.variance, emit.const(_epsilon(node)))
        self.inverse = emit.op("Reciprocal", emit.op("Sqrt", shifted))


def _batch_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """With M = X - mean, s = 1 / deviation: dscale = s sum(dY M), dbias = sum(dY),
    dX = scale s (dY - mean(dY) - M s^2 mean(dY M))."""
    (dy,), (x, scale, *_) = node.inputs, forward.inputs
    batch = _Batch(emit, forward)
    total = emit.op("ReduceSum", dy, batch.others, keepdims=1)
    tilted = emit.op("ReduceSum", emit.op("Mul", dy, batch.centred), batch.others, keepdims=1)
    d_scale = batch.narrow(emit.op("Mul", tilted, batch.inverse))
    (channels,) = emit.graph.fixed(x, slice(1, 2))
    each = emit.op("Mul", emit.op("Cast", emit.op("Size", x), to=FLOAT), emit.const(1 / channels))
    variance = emit.op("Mul", batch.inverse, batch.inverse)
    bend = emit.op("Div", emit.op("Mul", tilted, variance), each)
    rest = emit.op("Sub", dy, emit.op("Mul", batch.centred, bend))
    level = emit.op("Sub", rest, emit.op("Div", total, each))
    steep = emit.op("Mul", batch.inverse, batch.wide(scale))
    return [emit.op("Mul", level, steep), d_scale, batch.narrow(total)]


def _running_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """With s = 1 / deviation: dX = dY scale s, dscale = s (sum(dY X) - mean sum(dY)),
    dbias = sum(dY)."""
    (dy,), (x, scale, _, mean, variance) = node.inputs, forward.inputs
    channels = _Channels(emit, forward)
    shifted = emit.op("Add", variance, emit.const(_epsilon(forward)))
    inverse = emit.op("Reciprocal", emit.op("Sqrt", shifted))
    dx = emit.op("Mul", dy, channels.wide(emit.op("Mul", inverse, scale)))
    total = emit.op("ReduceSum", dy, channels.others, keepdims=0)
    along = emit.op("ReduceSum", emit.op("Mul", dy, x), channels.others, keepdims=0)
    away = emit.op("Sub", along, emit.op("Mul", mean, total))
    return [dx, emit.op("Mul", away, inverse), total]
