"""A plan's training graph as Graphviz text: forward, backward and the optimiser apart."""

from collections.abc import Callable, Iterable, Sequence

from coordinator.compiler.graph import Node, describe
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.sizes import Sized, sized

FORWARD, BACKWARD, OPTIMIZER = "forward", "backward", "optimiser"
_COLOURS = {FORWARD: "#dbeafe", BACKWARD: "#fee2e2", OPTIMIZER: "#dcfce7"}
_STEPS = frozenset({"Add", "Sub", "Mul", "Div", "Sqrt", "Pow", "Neg", "Abs", "Max", "Min", "Sign",
                    "Clip", "Where", "Sum", "Reciprocal", "Identity", "Concat", "Split",
                    "Reshape"})  # fmt: skip
_LONGEST = 60  # characters of a name


def dot(plan: CompiledPlan) -> str:
    """The graph, as `dot` reads it. Nodes are operators; inputs and outputs have their names, and
    an edge the shape of what runs along it. Raises `CompileError` when it is not an ONNX graph."""
    manifest = plan.manifest
    graph = sized(plan.files["train.onnx"], manifest.batch)
    parts = sections(graph)
    lines = [
        "digraph plan {",
        f"  label={_quoted(f'{manifest.task}: one step on a batch of {manifest.batch}')};",
        "  labelloc=t; rankdir=TB; fontname=Helvetica;",
        "  node [shape=box, style=filled, fontname=Helvetica, fontsize=11];",
        "  edge [fontname=Helvetica, fontsize=9];",
    ]
    for part in (FORWARD, BACKWARD, OPTIMIZER):
        lines += _cluster(part, graph.nodes, parts)
    lines += _ends("in", graph.inputs, "ellipse", "#f3f4f6")
    lines += _ends("out", graph.outputs, "ellipse", "#fef9c3")
    lines += _edges(graph)
    return "\n".join([*lines, "}"]) + "\n"


def sections(graph: Sized) -> list[str]:
    """Which part each node belongs to. What the loss is computed from is forward; what only
    scales, adds and rearranges on the way to a weight's next value is the optimiser; the rest is
    backward. A product that the optimiser's step was fused into counts as backward."""
    forward = _ancestors(graph.nodes, ["loss"], lambda node: True)
    nexts = [name for name in graph.outputs if name != "loss"]
    tail = _ancestors(
        graph.nodes, nexts, lambda node: node.op in _STEPS and id(node) not in forward
    )
    return [
        FORWARD if id(n) in forward else OPTIMIZER if id(n) in tail else BACKWARD
        for n in graph.nodes
    ]


def _ancestors(
    nodes: Sequence[Node], names: Iterable[str], enters: Callable[[Node], bool]
) -> set[int]:
    needed, found = set(names), set()
    for node in reversed(nodes):
        if needed.intersection(node.outputs) and enters(node):
            found.add(id(node))
            needed.update(node.inputs)
    return found


def _cluster(part: str, nodes: Sequence[Node], parts: list[str]) -> list[str]:
    inside = [
        f"    n{i} [label={_quoted(node.op)}, fillcolor={_quoted(_COLOURS[part])}];"
        for i, node in enumerate(nodes)
        if parts[i] == part
    ]
    if not inside:
        return []
    return [f"  subgraph cluster_{part} {{", f"    label={_quoted(part)};", *inside, "  }"]


def _ends(prefix: str, names: Iterable[str], shape: str, colour: str) -> list[str]:
    return [
        f"  {prefix}{i} [label={_quoted(name)}, shape={shape}, fillcolor={_quoted(colour)}];"
        for i, name in enumerate(names)
    ]


def _edges(graph: Sized) -> list[str]:
    """Constants are left out: they would hide the rest."""
    source = {name: f"in{i}" for i, name in enumerate(graph.inputs)}
    source |= {o: f"n{i}" for i, node in enumerate(graph.nodes) for o in node.outputs if o}
    lines = [
        f"  {source[name]} -> n{i} [label={_quoted(_shape(graph, name))}];"
        for i, node in enumerate(graph.nodes)
        for name in node.inputs
        if name in source
    ]
    lines += [f"  {source[n]} -> out{i};" for i, n in enumerate(graph.outputs) if n in source]
    return lines


def _shape(graph: Sized, name: str) -> str:
    shape = graph.shape(name)
    return "" if shape is None else describe(shape)


def _quoted(text: str) -> str:
    """A string of Graphviz's: what a model's names hold steers nothing."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    if len(plain) > _LONGEST:
        plain = plain[: _LONGEST - 3] + "..."
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
