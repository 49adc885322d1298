"""Normalisation: layer, instance, group, mean-variance and Lp norms. Batch norm has its own module.

Instance and group norm are layer norms of their input with the axes arranged, and then a scale and
a bias for each channel. ONNX Runtime has no kernel for group and mean-variance norm, and ONNX no
rule for their shapes: so they are written out everywhere.

X^ is the input with mean 0 and variance 1.
"""

import math

import numpy as np

from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.elementwise import or_infinity
from coordinator.compiler.operators.registry import (
    expansion,
    gradient,
    inference,
    lowering,
    operator,
)

operator("LayerNormalization", weights=(1, 2))
operator("InstanceNormalization", weights=(1, 2))
operator("GroupNormalization", weights=(1, 2))
operator("LpNormalization")
operator("MeanVarianceNormalization")


@expansion("LayerNormalization")
def complete_layer_norm(emit: Emitter, node: Node) -> list[str]:
    """The same with a bias, and with the mean and the deviation that the gradient wants. Where the
    model reads those, they are written out: no gradient passes the operator's own."""
    x, scale = node.inputs[:2]
    bias = node.input(2) or emit.const(np.zeros(emit.graph.fixed(scale, slice(None))))
    attributes = {k: v for k, v in node.attributes.items() if k != "stash_type"}
    made = emit.ops("LayerNormalization", (x, scale, bias), 3, **attributes)
    if not any(node.outputs[1:]):
        return [made[0]]
    return [made[0], *_statistics(emit, node)][: len(node.outputs)]


def _statistics(emit: Emitter, node: Node) -> tuple[str, str]:
    """A layer norm's mean, and 1 over its deviation."""
    x, rank = node.inputs[0], len(emit.graph.shape(node.inputs[0]))
    inner = emit.ints(*range(int(node.attributes.get("axis", -1)) % rank, rank))
    mean = emit.op("ReduceMean", x, inner, keepdims=1)
    centred = emit.op("Sub", x, mean)
    variance = emit.op("ReduceMean", emit.op("Mul", centred, centred), inner, keepdims=1)
    shifted = emit.op("Add", variance, emit.const(float(node.attributes.get("epsilon", 1e-5))))
    return mean, emit.op("Reciprocal", emit.op("Sqrt", shifted))


@lowering("LayerNormalization")
def without_zeros(emit: Emitter, node: Node, forward: Node) -> list[str] | None:
    """The same without a bias that only the gradient builder wants."""
    bias = emit.graph.constants.get(node.input(2))
    if bias is None or bias.any():
        return None
    return list(emit.ops(node.op, node.inputs[:2], len(node.outputs), **node.attributes))


@lowering("LayerNormalizationGrad")
def layer_norm_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = (G - mean(G) - X^ mean(G X^)) / deviation with G = dY scale, the means along the
    normalised axes; the gradients of scale and bias are sums of dY X^ and dY."""
    dy, x, scale, mean, inverse = node.inputs
    rank = len(emit.graph.shape(x))
    axis = int(forward.attributes.get("axis", -1)) % rank
    inner, outer = emit.ints(*range(axis, rank)), emit.ints(*range(axis))
    hat = emit.op("Mul", emit.op("Sub", x, mean), inverse)
    dy_hat = emit.op("Mul", dy, hat)
    d_scale = emit.op("ReduceSum", dy_hat, outer, keepdims=0) if node.output(1) else ""
    d_bias = emit.op("ReduceSum", dy, outer, keepdims=0) if node.output(2) else ""
    if not node.output(0):
        return ["", d_scale, d_bias]
    g, g_hat = dy, dy_hat
    known = emit.graph.constants.get(scale)
    if known is None or not (known == 1).all():
        g, g_hat = (emit.op("Mul", n, scale) for n in (dy, dy_hat))
    level = emit.op("ReduceMean", g, inner, keepdims=1)
    tilt = emit.op("ReduceMean", g_hat, inner, keepdims=1)
    rest = emit.op("Add", level, emit.op("Mul", hat, tilt))
    return [emit.op("Mul", emit.op("Sub", g, rest), inverse), d_scale, d_bias]


@expansion("InstanceNormalization")
def instance_norm(emit: Emitter, node: Node) -> list[str]:
    """A layer norm of each channel."""
    x, scale, bias = node.inputs
    hat = _standard(emit, x, 2, float(node.attributes.get("epsilon", 1e-5)))
    return [_scaled(emit, hat, scale, bias, len(emit.graph.shape(x)))]


@inference("GroupNormalization")
@expansion("GroupNormalization")
def group_norm(emit: Emitter, node: Node) -> list[str]:
    """A layer norm of each group of channels."""
    x, scale, bias = node.inputs
    channels, *size = emit.graph.fixed(x)
    groups = int(node.attributes["num_groups"])
    length = channels // groups * math.prod(size)
    apart = emit.op("Reshape", x, emit.ints(-1, groups, length))
    hat = _layer_norm(emit, apart, (length,), 2, float(node.attributes.get("epsilon", 1e-5)))
    whole = emit.ints(-1, channels, *size)
    return [_scaled(emit, emit.op("Reshape", hat, whole), scale, bias, len(size) + 2)]


def _standard(emit: Emitter, x: str, axis: int, epsilon: float) -> str:
    """X with mean 0 and variance 1 along the axes from `axis` on."""
    return _layer_norm(emit, x, emit.graph.fixed(x, slice(axis, None)), axis, epsilon)


def _layer_norm(emit: Emitter, x: str, shape: tuple[int, ...], axis: int, epsilon: float) -> str:
    one = emit.const(np.ones(shape))
    return emit.op("LayerNormalization", x, one, axis=axis, epsilon=epsilon)


def _scaled(emit: Emitter, hat: str, scale: str, bias: str, rank: int) -> str:
    """Each channel's own scale and bias; channels are axis 1."""
    axes = emit.ints(*range(1, rank - 1))
    scale, bias = (emit.op("Unsqueeze", n, axes) if rank > 2 else n for n in (scale, bias))
    return emit.op("Add", emit.op("Mul", hat, scale), bias)


@inference("MeanVarianceNormalization")
@expansion("MeanVarianceNormalization")
def mean_variance(emit: Emitter, node: Node) -> list[str]:
    """(X - mean) / (sqrt(variance) + 1e-9), along the axes; in primitives, as ONNX has it."""
    (x,) = node.inputs
    axes = emit.ints(*node.integers("axes", (0, 2, 3)))
    centred = emit.op("Sub", x, emit.op("ReduceMean", x, axes, keepdims=1))
    variance = emit.op("ReduceMean", emit.op("Mul", centred, centred), axes, keepdims=1)
    deviation = emit.op("Add", emit.op("Sqrt", variance), emit.const(1e-9))
    return [emit.op("Div", centred, deviation)]


@gradient("LpNormalization")
def lp_norm_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = (dY - S sum(dY Y)) / norm with S = Y for p = 2 and sign(X) for p = 1; 0 where the norm
    is."""
    (dy,), (x,), (y,) = node.inputs, forward.inputs, forward.outputs
    axis = emit.ints(int(forward.attributes.get("axis", -1)))
    p = int(forward.attributes.get("p", 2))
    norm = emit.op(f"ReduceL{p}", x, axis, keepdims=1)
    along = emit.op("ReduceSum", emit.op("Mul", dy, y), axis, keepdims=1)
    steep = y if p == 2 else emit.op("Sign", x)
    rest = emit.op("Sub", dy, emit.op("Mul", steep, along))
    return [emit.op("Div", rest, or_infinity(emit, norm))]
