"""Fusions that save a pass over the weights at each step of training."""

from collections import Counter
from dataclasses import replace

from coordinator.compiler.graph import Emitter, Graph, Node

_FEW = 2  # products that are as well summed as joined


def join_products(graph: Graph) -> None:
    """Sum(Gemm(A1, B1), Gemm(A2, B2), ...) to Gemm(Concat(A1, A2, ...), Concat(B1, B2, ...)).

    So the gradient of a weight that many steps of a recurrent layer share is one large product,
    not a small one for each step, each with a pass over the weight's elements.
    """
    made = graph.producers()
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    old, graph.nodes = graph.nodes, []
    gone: set[str] = set()
    for node in old:
        parts = [made.get(name) for name in node.inputs] if node.op == "Sum" else []
        products = [one for one in parts if one is not None and _joins(one, uses)]
        if len(products) <= _FEW or not _alike(products, len(parts)):
            graph.nodes.append(node)
            continue
        emit = Emitter(graph, node.origin)
        a, b = (emit.op("Concat", *(one.inputs[i] for one in products), axis=0) for i in (0, 1))
        graph.nodes.append(replace(products[0], inputs=(a, b), outputs=node.outputs))
        gone.update(one.outputs[0] for one in products)
    graph.nodes = [node for node in graph.nodes if node.outputs[0] not in gone]


def _joins(node: Node, uses: Counter[str]) -> bool:
    """Whether it is a product A' B that only one node reads."""
    transposed = (node.attributes.get("transA", 0), node.attributes.get("transB", 0))
    alone = len(node.inputs) == 2 and uses[node.outputs[0]] == 1
    return node.op == "Gemm" and alone and transposed == (1, 0)


def _alike(products: list[Node], count: int) -> bool:
    """Whether these are so many, with one factor."""
    return len(products) == count and len({p.attributes.get("alpha", 1.0) for p in products}) == 1


def accumulate(graph: Graph) -> None:
    """Add(Gemm(A, B), C) and Sub(C, Gemm(A, B)) to Gemm(A, B, C).

    The sign goes into Gemm's alpha; a constant factor of C, if it has one, into its beta.

    This puts the update of a dense layer's weights, or of their velocity, into the product that
    makes their gradient. Types of all tensors must be known.
    """
    made = graph.producers()
    uses = Counter(name for node in graph.nodes for name in node.inputs)
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
