"""Cross-entropy as one operator: stock ONNX Runtime would spell it out in twenty."""

import numpy as np

from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.registry import lowering


def one_hot(emit: Emitter, labels: str, classes: int) -> str:
    """Float32 [batch, classes] with 1 at each label, from int64 [batch]."""
    return emit.op("OneHot", labels, emit.const(classes, np.int64), emit.const([0.0, 1.0]), axis=1)


def batch_size(emit: Emitter, tensor: str) -> str:
    """The first axis's length as a float32 scalar."""
    return emit.op("Cast", emit.op("Squeeze", emit.op("Shape", tensor, start=0, end=1)), to=1)


@lowering("SoftmaxCrossEntropyLoss")
def cross_entropy(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """Mean of -log softmax(X)[label], and log softmax(X)."""
    logits, labels = node.inputs
    (classes,) = emit.graph.fixed(logits)
    log_p = emit.op("LogSoftmax", logits, axis=1)
    chosen = emit.op("Mul", log_p, one_hot(emit, labels, classes))
    total = emit.op("Neg", emit.op("ReduceSum", chosen, keepdims=0))
    return [emit.op("Div", total, batch_size(emit, labels)), log_p]


@lowering("SoftmaxCrossEntropyLossGrad")
def cross_entropy_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = (softmax(X) - onehot(label)) dL / N, for the mean over N examples."""
    d_loss, log_p, labels = node.inputs
    (classes,) = emit.graph.fixed(forward.inputs[0])
    error = emit.op("Sub", emit.op("Exp", log_p), one_hot(emit, labels, classes))
    return [emit.op("Mul", error, emit.op("Div", d_loss, batch_size(emit, labels)))]
