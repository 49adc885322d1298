"""How made-up examples are drawn, by what a plan does with its inputs."""

from collections.abc import Iterable

from coordinator.compiler.cost import VIEWS
from coordinator.compiler.graph import Node
from coordinator.compiler.made_up import UNBOUNDED, Draw
from coordinator.compiler.sizes import Sized
from wire.plan import Manifest

_KEEP_VALUES = VIEWS | {"Cast", "Transpose", "Slice", "Concat", "Split", "Gather", "Expand"}
"""Operators that hand an index on as it is, if they get one as their first input."""
_INDEX_OF = {"Gather": 1, "GatherElements": 1, "GatherND": 1, "ScatterElements": 1, "OneHot": 0}
"""Which input holds the indices."""


def draws_of(manifest: Manifest, train: Sized, model_inputs: Iterable[str]) -> list[Draw]:
    """One for each example input. A float that the model itself does not take is a label: 0 or 1,
    which suits a probability, a side and a number alike."""
    own = set(model_inputs)
    found = []
    for entry in manifest.inputs:
        below = entry.classes
        if below is None and entry.dtype.startswith("float"):
            below = None if entry.name in own else UNBOUNDED
        elif below is None:
            below = min(index_bounds(train, entry.name), default=UNBOUNDED)
        found.append(Draw(name=entry.name, dtype=entry.dtype, shape=entry.shape, below=below))
    return found


def index_bounds(graph: Sized, name: str) -> list[int]:
    """What an integer input must be below, by where it is used as an index."""
    names, found = {name}, []
    for node in graph.nodes:
        place = _INDEX_OF.get(node.op)
        if place is not None and node.inputs[place] in names:
            found += [n for n in _lengths(graph, node) if n > 0]
        if node.op in _KEEP_VALUES and node.inputs[0] in names:
            names.update(node.outputs)
    return found


def _lengths(graph: Sized, node: Node) -> list[int]:
    if node.op == "OneHot":
        depth = graph.constants.get(node.inputs[1])
        return [] if depth is None else [int(depth.ravel()[0])]
    shape = graph.shape(node.inputs[0]) or ()
    axis = int(node.attributes.get("axis", 0))
    return [shape[axis]] if -len(shape) <= axis < len(shape) else []
