"""Activations: elementwise, and softmax along an axis.

X is the activation's input, Y its output, dY the gradient of the loss by it. Where a function has a
corner, the slope there is the one on its left, but for Clip's: 1 at its ends.
"""

import math

from coordinator.compiler.graph import FLOAT, Emitter, Node
from coordinator.compiler.operators.elementwise import not_zero, step, summed_to
from coordinator.compiler.operators.registry import expansion, gradient, lowering, operator

for _op in (
    "Relu",
    "Clip",
    "LeakyRelu",
    "Softsign",
    "Sigmoid",
    "Tanh",
    "HardSigmoid",
    "HardSwish",
    "Gelu",
    "ThresholdedRelu",
    "Softmax",
    "LogSoftmax",
):
    operator(_op)
operator("PRelu", weights=(1,))


@lowering("ReluGrad")
def relu_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY where Y > 0, else 0.

    Y and X are positive at the same places. Reading Y lets the runtime overwrite X, or fuse the
    Relu into the operator before it. Y is never negative, so as a truth value it is the mask; two
    casts cost a third of Sign's time, and Where is slow in ONNX Runtime 1.19.
    """
    dy, _ = node.inputs
    return [emit.op("Mul", dy, not_zero(emit, forward.outputs[0]))]


@gradient("Clip")
def clip_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY where Y = X, else 0."""
    same = emit.op("Equal", forward.inputs[0], forward.outputs[0])
    return [emit.op("Mul", node.inputs[0], emit.op("Cast", same, to=FLOAT))]


@lowering("SigmoidGrad")
def sigmoid_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY Y (1 - Y)."""
    dy, y = node.inputs
    slope = emit.op("Mul", y, emit.op("Sub", emit.const(1), y))
    return [emit.op("Mul", dy, slope)]


@lowering("TanhGrad")
def tanh_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY (1 - Y^2)."""
    dy, y = node.inputs
    slope = emit.op("Sub", emit.const(1), emit.op("Mul", y, y))
    return [emit.op("Mul", dy, slope)]


@lowering("SoftmaxGrad_13")
def softmax_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = (dY - sum(dY Y)) Y, the sum along the axis."""
    dy, y = node.inputs
    axis = emit.ints(int(node.attributes.get("axis", -1)))
    total = emit.op("ReduceSum", emit.op("Mul", dy, y), axis, keepdims=1)
    return [emit.op("Mul", emit.op("Sub", dy, total), y)]


@lowering("LogSoftmaxGrad_13")
def log_softmax_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY - exp(Y) sum(dY), the sum along the axis."""
    dy, y = node.inputs
    axis = emit.ints(int(node.attributes.get("axis", -1)))
    total = emit.op("ReduceSum", dy, axis, keepdims=1)
    return [emit.op("Sub", dy, emit.op("Mul", emit.op("Exp", y), total))]


@lowering("LeakyReluGrad")
def leaky_relu_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY where X > 0, else alpha dY."""
    slope = step(emit, forward.inputs[0], float(forward.attributes.get("alpha", 0.01)), 1.0)
    return [emit.op("Mul", node.inputs[0], slope)]


@gradient("PRelu", inputs=2)
def prelu_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY where X > 0, else slope dY; the slope's is the sum of dY X where X < 0."""
    (dy,), (x, slope) = node.inputs, forward.inputs
    dx = dslope = ""
    if node.outputs[0]:
        rest = emit.op("Sub", emit.const(1), slope)
        factor = emit.op("Add", emit.op("Mul", step(emit, x, 0.0, 1.0), rest), slope)
        dx = emit.op("Mul", dy, factor)
    if node.output(1):
        below = emit.op("Mul", dy, emit.op("Min", x, emit.const(0)))
        dslope = summed_to(emit, forward, below, slope)
    return [dx, dslope]


@gradient("Softsign")
def softsign_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY / (1 + |X|)^2 = dY (1 - |Y|)^2."""
    root = emit.op("Sub", emit.const(1), emit.op("Abs", forward.outputs[0]))
    return [emit.op("Mul", node.inputs[0], emit.op("Mul", root, root))]


@gradient("HardSigmoid")
def hard_sigmoid_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = alpha dY where 0 < Y < 1, else 0."""
    y = forward.outputs[0]
    inside = not_zero(emit, emit.op("Sub", y, emit.op("Mul", y, y)))
    slope = emit.op("Mul", inside, emit.const(forward.attributes.get("alpha", 0.2)))
    return [emit.op("Mul", node.inputs[0], slope)]


@expansion("HardSwish")
def hard_swish(emit: Emitter, node: Node) -> list[str]:
    """X hardsigmoid(X)."""
    (x,) = node.inputs
    return [emit.op("Mul", x, emit.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))]


@gradient("ThresholdedRelu")
def thresholded_relu_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY where X > alpha, else 0."""
    at = float(forward.attributes.get("alpha", 1.0))
    return [emit.op("Mul", node.inputs[0], step(emit, forward.inputs[0], 0.0, 1.0, at))]


@lowering("GeluGrad")
def gelu_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY times the slope of X Phi(X), or of its approximation by tanh."""
    x = forward.inputs[0]
    tanh = forward.attributes.get("approximate", "none") == "tanh"
    slope = _tanh_gelu_slope(emit, x) if tanh else _gelu_slope(emit, x)
    return [emit.op("Mul", node.inputs[0], slope)]


def _gelu_slope(emit: Emitter, x: str) -> str:
    """Phi(x) + x phi(x), the normal distribution and its density."""
    erf = emit.op("Erf", emit.op("Mul", x, emit.const(math.sqrt(0.5))))
    half = emit.op("Mul", emit.op("Add", erf, emit.const(1)), emit.const(0.5))
    density = emit.op("Exp", emit.op("Mul", emit.op("Mul", x, x), emit.const(-0.5)))
    scaled = emit.op("Mul", x, emit.const(1 / math.sqrt(2 * math.pi)))
    return emit.op("Add", half, emit.op("Mul", scaled, density))


def _tanh_gelu_slope(emit: Emitter, x: str) -> str:
    """With t = tanh(u), u = c (x + k x^3): (1 + t) / 2 + x (1 - t^2) c (1 + 3 k x^2) / 2."""
    c, k = math.sqrt(2 / math.pi), 0.044715
    square = emit.op("Mul", x, x)
    inner = emit.op("Add", emit.op("Mul", square, emit.const(c * k)), emit.const(c))
    t = emit.op("Tanh", emit.op("Mul", x, inner))
    half = emit.op("Add", emit.op("Mul", t, emit.const(0.5)), emit.const(0.5))
    steep = emit.op("Add", emit.op("Mul", square, emit.const(3 * k * c)), emit.const(c))
    # (1 - t^2) / 2 = 2 h (1 - h) with h = (1 + t) / 2.
    rest = emit.op("Mul", half, emit.op("Sub", emit.const(1), half))
    bent = emit.op("Mul", emit.op("Mul", x, emit.op("Mul", steep, emit.const(2))), rest)
    return emit.op("Add", half, bent)
