"""Cross-entropy as one operator: stock ONNX Runtime would spell it out in twenty."""

import numpy as np

from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.registry import lowering


def _one_hot(emit: Emitter, labels: str, logits: str) -> tuple[str, str]:
    """Float32 [batch, classes] with 1 at each label, and their sum: the batch's size."""
    (classes,) = emit.graph.fixed(logits)
    depth, values = emit.const(classes, np.int64), emit.const([0.0, 1.0])
    chosen = emit.op("OneHot", labels, depth, values, axis=1)
    return chosen, emit.op("ReduceSum", chosen, keepdims=0)


@lowering("SoftmaxCrossEntropyLoss")
def cross_entropy(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """Mean of -log softmax(X)[label], and log softmax(X)."""
    logits, labels = node.inputs
    log_p = emit.op("LogSoftmax", logits, axis=1)
    chosen, count = _one_hot(emit, labels, logits)
    total = emit.op("ReduceSum", emit.op("Mul", log_p, chosen), keepdims=0)
    return [emit.op("Neg", emit.op("Div", total, count)), log_p]


@lowering("SoftmaxCrossEntropyLossGrad")
def cross_entropy_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = (softmax(X) - onehot(label)) dL / N, for the mean over N examples."""
    d_loss, log_p, labels = node.inputs
    chosen, count = _one_hot(emit, labels, forward.inputs[0])
    error = emit.op("Sub", emit.op("Exp", log_p), chosen)
    return [emit.op("Mul", error, emit.op("Div", d_loss, count))]
