"""Activations: elementwise, and softmax along an axis.

Y is the activation's output, dY the gradient of the loss by it.
"""

from coordinator.compiler.graph import BOOL, FLOAT, Emitter, Node
from coordinator.compiler.operators.registry import lowering, operator

operator("Relu")
operator("Sigmoid")
operator("Tanh")
operator("Softmax")
operator("LogSoftmax")


@lowering("ReluGrad")
def relu_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY where Y > 0, else 0.

    Y and X are positive at the same places. Reading Y lets the runtime overwrite X, or fuse the
    Relu into the operator before it. Y is never negative, so as a truth value it is the mask; two
    casts cost a third of Sign's time, and Where is slow in ONNX Runtime 1.19.
    """
    dy, _ = node.inputs
    mask = emit.op("Cast", emit.op("Cast", forward.outputs[0], to=BOOL), to=FLOAT)
    return [emit.op("Mul", dy, mask)]


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
