"""Fusions that save a pass over the weights at each step of training."""

from dataclasses import replace

from coordinator.compiler.graph import Graph, Node


def accumulate(graph: Graph) -> None:
    """Add(Gemm(A, B), C) to Gemm(A, B, C), and with C scaled by a constant to Gemm's beta.

    This puts the update of a dense layer's weights, or of their velocity, into the product that
    makes their gradient. Types of all tensors must be known.
    """
    made = graph.producers()
    uses: dict[str, int] = {}
    for node in graph.nodes:
        for name in node.inputs:
            uses[name] = uses.get(name, 0) + 1
    fused: dict[str, Node] = {}
    gone = set()
    for node in graph.nodes:
        if node.op != "Add":
            continue
        for product, other in (node.inputs, node.inputs[::-1]):
            gemm = made.get(product)
            if gemm is None or gemm.op != "Gemm" or len(gemm.inputs) != 2 or uses[product] > 1:
                continue
            c, beta = _scaled(graph, made.get(other), other)
            if graph.types[c].shape != graph.types[product].shape:
                continue
            attributes = {**gemm.attributes, "beta": beta}
            fused[node.outputs[0]] = replace(
                gemm, inputs=(*gemm.inputs, c), outputs=node.outputs, attributes=attributes
            )
            gone.add(product)
            break
    graph.nodes = [
        fused.get(node.outputs[0], node) for node in graph.nodes if node.outputs[0] not in gone
    ]


def _scaled(graph: Graph, node: Node | None, name: str) -> tuple[str, float]:
    """The tensor and the number whose product this is; the tensor itself and 1 otherwise."""
    if node is not None and node.op == "Mul":
        tensor, factor = node.inputs
        value = graph.constants.get(factor)
        if value is not None and value.ndim == 0:
            return tensor, float(value)
    return name, 1.0
