"""Activations by the exponential function, written out for training.

ONNX Runtime 1.19 computes Elu, Selu, Celu and Softplus one element at a time, which takes seven
times as long as what is here. What a gradient and the operator itself both emit is merged by
`simplify.py`. Nothing overflows: only numbers up to 0, or up to 20, are put into Exp.

X is the activation's input, Y its output, dY the gradient of the loss by it.
"""

from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.elementwise import step
from coordinator.compiler.operators.registry import gradient, lowering, operator

for _op in ("Elu", "Selu", "Celu", "Softplus", "Mish"):
    operator(_op)


class _Elu:
    """Y = above X for X > 0, else below (exp(X / width) - 1), and its slope."""

    def __init__(self, emit: Emitter, node: Node) -> None:
        self.emit = emit
        (self.x,) = node.inputs
        alpha = float(node.attributes.get("alpha", 1.6732632423543772 if node.op == "Selu" else 1))
        gamma = float(node.attributes.get("gamma", 1.0507009873554805))
        self.above = gamma if node.op == "Selu" else 1.0
        self.below = self.above * alpha
        self.width = alpha if node.op == "Celu" else 1.0
        low = emit.op("Min", self.x, emit.const(0))
        self.power = emit.op("Exp", _times(emit, low, 1 / self.width))

    def value(self) -> str:
        emit = self.emit
        high = _times(emit, emit.op("Relu", self.x), self.above)
        low = emit.op("Sub", _times(emit, self.power, self.below), emit.const(self.below))
        return emit.op("Add", high, low)

    def slope(self) -> str:
        """The power is 1 where X > 0."""
        below = self.below / self.width
        if below == self.above:
            return _times(self.emit, self.power, below)
        return self.emit.op("Mul", self.power, step(self.emit, self.x, below, self.above))


def _times(emit: Emitter, x: str, factor: float) -> str:
    return x if factor == 1 else emit.op("Mul", x, emit.const(factor))


@lowering("Elu")
@lowering("Selu")
@lowering("Celu")
def elu(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """Y, see `_Elu`."""
    return [_Elu(emit, node).value()]


@gradient("Elu")
@gradient("Selu")
@gradient("Celu")
def elu_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY times the slope, see `_Elu`."""
    return [emit.op("Mul", node.inputs[0], _Elu(emit, forward).slope())]


@lowering("Softplus")
def softplus(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """Y = log(1 + exp(X)) = max(X, 0) + log(1 + exp(-|X|))."""
    (x,) = node.inputs
    power = emit.op("Exp", emit.op("Neg", emit.op("Abs", x)))
    rest = emit.op("Log", emit.op("Add", power, emit.const(1)))
    return [emit.op("Add", emit.op("Relu", x), rest)]


@gradient("Softplus")
def softplus_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY sigmoid(X)."""
    return [emit.op("Mul", node.inputs[0], emit.op("Sigmoid", forward.inputs[0]))]


@lowering("Mish")
def mish(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """Y = X tanh(softplus(X))."""
    (x,) = node.inputs
    return [emit.op("Mul", x, _tanh_softplus(emit, x))]


@gradient("Mish")
def mish_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY (t + X (1 - t^2) sigmoid(X)) with t = tanh(softplus(X))."""
    (x,) = forward.inputs
    t = _tanh_softplus(emit, x)
    rest = emit.op("Sub", emit.const(1), emit.op("Mul", t, t))
    steep = emit.op("Mul", emit.op("Mul", x, rest), emit.op("Sigmoid", x))
    return [emit.op("Mul", node.inputs[0], emit.op("Add", t, steep))]


def _tanh_softplus(emit: Emitter, x: str) -> str:
    """n / (n + 2) with n = e (e + 2), e = exp(x): 1 in float32 from x = 20 on."""
    power = emit.op("Exp", emit.op("Min", x, emit.const(20)))
    n = emit.op("Mul", power, emit.op("Add", power, emit.const(2)))
    return emit.op("Div", n, emit.op("Add", n, emit.const(2)))
