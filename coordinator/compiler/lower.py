"""Rewriting a graph operator by operator: expansions before differentiation, lowerings after."""

from collections.abc import Callable, Container, Iterable, Sequence

from coordinator.compiler import bodies, shapes, specification, trained
from coordinator.compiler.errors import CompileError
from coordinator.compiler.gradient import OWN
from coordinator.compiler.graph import Emitter, Graph, Node
from coordinator.compiler.operators import EXPANSIONS, GRADIENTS, LOWERINGS, supported
from coordinator.compiler.operators.registry import Expansion


def expand(graph: Graph, inputs: Iterable[str], weights: Iterable[str]) -> None:
    """Write operators otherwise where an expansion says so, and then what that is made of.

    An operator that a gradient must pass, and that nothing is known of, is replaced by ONNX's own
    function body. The inputs and weights are typed; all types are known afterwards. Raises
    `CompileError`.
    """
    weights = tuple(weights)
    known = (*inputs, *weights)
    fresh: set[str] | None = None
    while fresh is None or fresh:
        unsettled = any(n.op == "Reshape" and n.outputs[0] not in graph.types for n in graph.nodes)
        (shapes.infer if unsettled else shapes.update)(graph, known)
        passed = trained.moving(graph, weights)

        def rule_of(node: Node, passed: set[str] = passed) -> Expansion | None:
            unknown = not (trained.is_supported(graph, node) or passed.isdisjoint(node.outputs))
            return EXPANSIONS.get(node.op) or (bodies.written_out if unknown else None)

        fresh = rewrite(graph, rule_of, fresh)


def rewrite(
    graph: Graph,
    rule_of: Callable[[Node], Expansion | None],
    among: Container[str] | None = None,
) -> set[str]:
    """Write operators otherwise where there is a rule for them, each once.

    `among` are the outputs of the nodes that may be rewritten (all). Returns the outputs of new
    nodes that are to be looked at again: those of another operator than what they stand for.
    """
    old, graph.nodes = graph.nodes, []
    fresh: set[str] = set()
    for node in old:
        wanted = among is None or any(o in among for o in node.outputs)
        rule = rule_of(node) if wanted and not node.domain else None
        start = len(graph.nodes)
        outputs = rule(Emitter(graph, node.name), node) if rule else None
        if outputs is None:
            graph.nodes.append(node)
            continue
        _name_outputs(graph, start, node, outputs)
        made = [new for new in graph.nodes[start:] if new.op != node.op]
        fresh.update(o for new in made for o in new.outputs if o)
    return fresh


def lower(graph: Graph) -> None:
    """Replace operators that only the training build knows by standard ones.

    Raises `CompileError` for one without a lowering.
    """
    old, graph.nodes = graph.nodes, []
    forward = {node.name: node for node in old if not node.gradient_of}
    for node in old:
        made_from = forward.get(node.gradient_of or node.name, node)
        own = GRADIENTS.get(made_from.op) if node.op == OWN else None
        rule = own.rule if own else LOWERINGS.get(node.op)
        start = len(graph.nodes)
        outputs = rule(Emitter(graph, made_from.name), node, made_from) if rule else None
        if outputs is None:
            _check_standard(graph, node)
            graph.nodes.append(node)
            continue
        _name_outputs(graph, start, node, outputs)


def _name_outputs(graph: Graph, start: int, node: Node, outputs: Sequence[str]) -> None:
    """Give what the nodes from `start` on compute for a node the names of its own outputs."""
    made = {name for new in graph.nodes[start:] for name in new.outputs}
    names: dict[str, str] = {}
    copies = []
    for now, wanted in zip(outputs, node.outputs, strict=False):
        if now in made and wanted and now not in names:
            names[now] = wanted
        elif now and wanted:  # an input handed on, a constant, or one result for two outputs
            copies.append(Node("Identity", (names.get(now, now),), (wanted,), name=node.name))
    graph.nodes[start:] = [new.renamed(names) for new in graph.nodes[start:]] + copies


def _check_standard(graph: Graph, node: Node) -> None:
    if node.domain or specification.schema(node.op) is None:
        raise CompileError(
            f"the gradient of {graph.label(node.origin)} needs {node.op}, which has no standard "
            f"form yet. Supported: {supported()}"
        )
