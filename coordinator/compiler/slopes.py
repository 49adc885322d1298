"""Scalars whose gradient is known: what the builder need not, or cannot, differentiate.

A loss knows its own gradient better than a chain of small operators does: it is right at kinks and
for huge logits, and takes few passes over the output. Such a loss is put into the graph as a
stand-in that the builder can differentiate; afterwards `put_back` writes the real value and the
real gradient in its place.
"""

from coordinator.compiler.graph import Emitter, Graph, Node, Slope

SUFFIX = "_grad"
"""What the builder appends to a tensor's name for its gradient."""


def scalar(emit: Emitter, of: str, value: str, slope: str, divisor: str) -> str:
    """The scalar `value`, a function of the tensor `of`; its gradient is `slope` / `divisor`.

    `slope` has the shape of `of`; `divisor` is a scalar, kept apart as dividing what comes from
    above by it costs nothing.
    """
    stand_in = emit.op("ReduceSum", of, keepdims=0)
    emit.graph.slopes[stand_in] = Slope(value, slope, divisor)
    return stand_in


def put_back(graph: Graph, forward: Graph) -> None:
    """Replace the stand-ins of a differentiated graph, and their gradients.

    `forward` is what was differentiated, and has the nodes that the builder was not shown; in it
    each node comes after those it reads.
    """
    built = {node.name: node for node in graph.nodes}
    nodes = [built.pop(node.name, node) for node in forward.nodes]
    stand_ins = {n.name: out for n in nodes if (out := n.outputs[0]) in graph.slopes}
    nodes += built.values()
    last = {node.gradient_of: node for node in nodes}
    graph.nodes = []
    for node in nodes:
        if node.name in stand_ins:
            value = graph.slopes[node.outputs[0]].value
            graph.nodes.append(Node("Identity", (value,), node.outputs, name=node.name))
        elif (name := node.gradient_of) not in stand_ins:
            graph.nodes.append(node)
        elif node is last[name]:
            _write_gradient(graph, stand_ins[name], node)
    graph.slopes = {}


def _write_gradient(graph: Graph, stand_in: str, node: Node) -> None:
    """What comes from above, over the divisor, times the slope: as the output of `node`."""
    emit, known = Emitter(graph, node.name), graph.slopes[stand_in]
    each = emit.op("Div", stand_in + SUFFIX, known.divisor)
    graph.nodes.append(Node("Mul", (known.slope, each), node.outputs[:1], name=node.name))
