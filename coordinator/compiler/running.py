"""Running statistics of batch norms: kept as they are, or recomputed by the devices."""

from collections.abc import Collection, Mapping

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, Graph
from coordinator.compiler.model import Model
from coordinator.compiler.operators.batch_norm import OP, in_mode


def keep(graph: Graph) -> None:
    """Have every batch norm use its running statistics, also in training."""
    graph.nodes = [
        in_mode(node, False, node.outputs[:1]) if node.op == OP else node for node in graph.nodes
    ]


def recompute(graph: Graph, model: Model, frozen: Collection[str]) -> dict[str, str]:
    """Have batch norms use each batch's statistics, and tell which tensor updates which weight.

    `graph` is the part of the model that leads to the output. A batch norm with statistics among
    `frozen`, or with others than float32 initialisers, keeps them. Raises `CompileError` if none
    is left.
    """
    keep(graph)
    emit = Emitter(graph)
    updates: dict[str, str] = {}
    own = False
    for i, node in enumerate(graph.nodes):
        if node.op != OP:
            continue
        running = node.inputs[3:5]
        own = own or all(w in model.values for w in running)
        if all(w in model.values and w not in frozen for w in running):
            outputs = (node.outputs[0], emit.name(), emit.name())
            graph.nodes[i] = in_mode(node, True, outputs)
            updates.update(zip(running, outputs[1:], strict=True))
    if not updates:
        if own:
            raise CompileError(
                "model.batch_norm = 'recomputed': every batch norm has statistics that are to stay "
                "as they are (model.frozen, or adapters without train_rest)"
            )
        raise CompileError(
            "model.batch_norm = 'recomputed': the model has no batch norm with statistics of its "
            "own. Exporters fold them into the layer before: export the model in training mode "
            "(torch.onnx.export with training=TrainingMode.TRAINING, do_constant_folding=False)"
        )
    return updates


def keep_others(
    graph: Graph, updates: Mapping[str, str], chosen: Collection[str]
) -> dict[str, str]:
    """Have batch norms keep their running statistics unless both are `chosen`. Returns what is left
    of `updates`, which `recompute` told."""
    left = {}
    for i, node in enumerate(graph.nodes):
        if node.op != OP or len(node.outputs) == 1:
            continue
        running = node.inputs[3:5]
        if all(w in chosen for w in running):
            left.update({w: updates[w] for w in running})
        else:
            graph.nodes[i] = in_mode(node, False, node.outputs[:1])
    return left
