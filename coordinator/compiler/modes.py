"""What differs between training and evaluation.

`Problem.graph` holds operators as the model has them. Those that behave otherwise in training
(dropout; batch norm with statistics recomputed on the device) are rewritten on a copy of it: by
`for_training` for train.onnx, by `for_evaluation` for evaluate.onnx and model.onnx. The rules are
in `operators/`, under `@training` and `@inference`.
"""

from coordinator.compiler import lower
from coordinator.compiler.graph import Graph
from coordinator.compiler.operators import INFERENCE, TRAINING


def for_training(graph: Graph) -> None:
    """Write operators as they behave in training. Expansions come after it."""
    lower.rewrite(graph, lambda node: TRAINING.get(node.op))


def without_dropout(graph: Graph) -> None:
    """Write dropout as it behaves when the model is used, for both modes."""
    lower.rewrite(graph, lambda node: INFERENCE[node.op] if node.op == "Dropout" else None)


def for_evaluation(graph: Graph) -> None:
    """Write operators as they behave when the model is used."""
    lower.rewrite(graph, lambda node: INFERENCE.get(node.op))
