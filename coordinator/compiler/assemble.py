"""From finished graphs to the bytes of a plan's files."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from onnx import checker

from coordinator.compiler import convert
from coordinator.compiler.convert import External, Signature
from coordinator.compiler.graph import Array, Emitter, Graph, Node, in_order
from wire.plan import FROZEN_NAME

FROZEN_LEAST = 1024
"""Bytes from which on a constant is stored in the frozen file rather than in each graph."""
LIST_MOST = 1 << 16
"""Bytes up to which a list of whole numbers is stored in the graphs all the same."""
_ALIGN = 64


class FrozenFile:
    """The large constants of a plan's graphs, each stored once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._places: dict[tuple[str, bytes], External] = {}
        self._size = 0

    def place(self, value: Array) -> External | None:
        """Where this constant lies, stored if need be; None if it is small.

        Also a list of whole numbers is kept in the graph: it may be lengths or places, which ONNX
        Runtime wants to read before it reads other files.
        """
        if value.nbytes < FROZEN_LEAST or (
            value.dtype == np.int64 and value.nbytes <= LIST_MOST and value.ndim == 1
        ):
            return None
        data = np.asarray(value, dtype=value.dtype.newbyteorder("<"), order="C").tobytes()
        key = (value.dtype.str, data)
        if key not in self._places:
            padding = -self._size % _ALIGN
            self._parts += [b"\0" * padding, data]
            self._places[key] = External(FROZEN_NAME, self._size + padding, len(data))
            self._size += padding + len(data)
        return self._places[key]

    def to_bytes(self) -> bytes:
        """The file; empty if no constant is large."""
        return b"".join(self._parts)


@dataclass(frozen=True)
class Interface:
    """The public names of a graph's tensors: inputs by the graph's name, outputs by the public."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


Place = Callable[[str, Array], External | None]
"""Says where outside the graph a constant (by its name in the graph) is stored, if it is."""


def write(graph: Graph, interface: Interface, place: Place) -> bytes:
    """The graph as an ONNX file with public names outside and short ones inside.

    The bytes depend only on what the graph computes from what, not on the order or the names in
    which it was built. The result is checked in full before it is returned.
    """
    outputs = _distinct(graph, interface.inputs, interface.outputs)
    nodes = in_order(graph.nodes, outputs.values())
    names = {"": "", **interface.inputs, **{now: name for name, now in outputs.items()}}
    public = set(names.values())
    number = 0
    for name in (n for node in nodes for n in (*node.inputs, *node.outputs)):
        if name not in names:
            while (short := f"t{number}") in public:
                number += 1
            names[name] = short
            number += 1
    used = {n: None for node in nodes for n in node.inputs if n in graph.constants}
    signature = Signature(
        {public: graph.types[n] for n, public in interface.inputs.items()},
        {public: graph.types[n] for public, n in outputs.items()},
    )
    external = {names[n]: where for n in used if (where := place(n, graph.constants[n]))}
    final = Graph(
        [
            Node(n.op, n.inputs, n.outputs, n.attributes, _name_of(n))
            for n in (node.renamed(names) for node in nodes)
        ],
        {names[n]: graph.constants[n] for n in used},
    )
    # The checker wants external data on disk: it is shown the same graph with all data inside.
    checker.check_model(convert.model_of(final, signature), full_check=True)
    return convert.bytes_of(convert.model_of(final, signature, external))


def _name_of(node: Node) -> str:
    """A node's name in the file: none, but where a fusion of ONNX Runtime's makes names of names.

    Of several slices of nameless nodes it makes several nodes of one name, and then fails.
    """
    return node.outputs[0] if node.op in ("Gather", "Slice") else ""


def _distinct(graph: Graph, inputs: Iterable[str], outputs: Mapping[str, str]) -> dict[str, str]:
    """The outputs, each a tensor that some node of its own makes.

    An output that is an input, a constant or another output under a second name is copied.
    """
    taken = {*inputs, *graph.constants}
    emit, result = Emitter(graph), {}
    for public, name in outputs.items():
        own = name
        if name in taken:
            own = emit.op("Identity", name)
            if (known := graph.type_of(name)) is not None:
                graph.types[own] = known
        taken.add(own)
        result[public] = own
    return result
