"""Fusions that save a pass over the weights at each step of training."""

from dataclasses import replace

from coordinator.compiler.graph import Graph, Node


def accumulate(graph: Graph) -> None:
    """Add(Gemm(A, B), C) and Sub(C, Gemm(A, B)) to Gemm(A, B, C).

    The sign goes into Gemm's alpha; a constant factor of C, if it has one, into its beta.

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
        if node.op not in ("Add", "Sub"):
            continue
        pairs = (node.inputs, node.inputs[::-1])
        for product, other in pairs if node.op == "Add" else pairs[1:]:
            gemm = made.get(product)
            if gemm is None or gemm.op != "Gemm" or len(gemm.inputs) != 2 or uses[product] > 1:
                continue
            c, beta = _scaled(graph, made.get(other), other)
            if graph.types[c].shape != graph.types[product].shape:
                continue
            sign = 1.0 if node.op == "Add" else -1.0
            alpha = sign * float(gemm.attributes.get("alpha", 1.0))
            attributes = {**gemm.attributes, "alpha": alpha, "beta": beta}
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
