"""A small graph of ONNX operators that is pleasant to build and to rewrite.

`Node` is one operator, `Graph` is nodes in the order they run with the constants they read, and
`Emitter` adds nodes under fresh names. `convert.py` turns ONNX's own messages into these and back.

Tensor names inside a graph are ours (`m3`, `e7`), never the model's: so a model may call its
tensors what it likes. `naming.py` gives the public ones their names back at the end.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from coordinator.compiler.errors import CompileError

Array = npt.NDArray[Any]
Shape = tuple[int | str, ...]
"""Axis lengths; a string is an axis whose length is not known, `BATCH` the batch axis."""

BATCH = "batch"
OPSET = 21
"""The one operator set that the compiler works in: the newest the training build reads."""
FLOAT, INT64, BOOL = 1, 7, 9
"""ONNX's numbers for float32, int64 and bool, as `Cast` wants them."""
FLOAT32 = np.dtype(np.float32)
"""What weights, gradients and the optimiser's state are of."""
IR_VERSION = 10
"""The newest file format that the training build, and stock ONNX Runtime 1.20, read."""


class TensorType(NamedTuple):
    """What is known of a tensor. `shape` is None when not even the rank is known."""

    dtype: np.dtype[Any]
    shape: Shape | None


class Slope(NamedTuple):
    """A scalar tensor whose gradient is known: `slope` / `divisor` (see `slopes.py`)."""

    value: str
    slope: str
    divisor: str


@dataclass(frozen=True)
class Node:
    """One operator. An empty name among the inputs or outputs is an optional one left out.

    `name` begins with the name of the model's node that it stems from, up to the first dot.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    domain: str = ""

    @property
    def origin(self) -> str:
        """The model's node that this one stems from, also when it is part of its gradient."""
        return self.name.split("_Grad")[0].split(".")[0]

    @property
    def gradient_of(self) -> str:
        """The name of the node that this one is part of the gradient of; "" for none."""
        name, found, _ = self.name.partition("_Grad/")
        return name if found else ""

    def input(self, place: int) -> str:
        """An input, or "" if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""

    def output(self, place: int) -> str:
        """An output, or "" if nobody wants it."""
        return self.outputs[place] if place < len(self.outputs) else ""

    def integers(self, attribute: str, default: Sequence[int]) -> tuple[int, ...]:
        """A list-of-integers attribute, or the default."""
        return tuple(int(v) for v in self.attributes.get(attribute, default))

    def renamed(self, names: dict[str, str]) -> "Node":
        """The node with its inputs and outputs renamed; names not in the map stay."""
        return replace(
            self,
            inputs=tuple(names.get(n, n) for n in self.inputs),
            outputs=tuple(names.get(n, n) for n in self.outputs),
        )


@dataclass
class Graph:
    """Nodes in an order in which they can run, constants by name, and what types are known.

    `labels` says, for messages, what a node or tensor of the user's model is called there. `slopes`
    has what is to take the place of stand-ins once the graph is differentiated. `draws` are inputs
    for random numbers, uniform in [0, 1), by the shape that they have for one example.
    """

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    types: dict[str, TensorType] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    fresh: int = 0
    slopes: dict[str, Slope] = field(default_factory=dict)
    draws: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def copy(self) -> "Graph":
        """A graph that can be changed without changing this one; arrays are shared."""
        return Graph(
            list(self.nodes),
            dict(self.constants),
            dict(self.types),
            self.labels,
            self.fresh,
            dict(self.slopes),
            dict(self.draws),
        )

    def producers(self) -> dict[str, Node]:
        """The node that makes each tensor."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def type_of(self, name: str) -> TensorType | None:
        """What is known of a tensor, if anything; of a constant it is its own type."""
        value = self.constants.get(name)
        return self.types.get(name) if value is None else TensorType(value.dtype, value.shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's element type, which must be known."""
        known = self.constants.get(name)
        return self.types[name].dtype if known is None else known.dtype

    def shape(self, name: str) -> Shape:
        """A tensor's shape. Raises `CompileError` when it is not known."""
        known = self.type_of(name)
        if known is None or known.shape is None:
            raise CompileError(
                f"the shape of {self.label(name)} cannot be told from the model; "
                "export it with fixed axes (all but the batch)"
            )
        return known.shape

    def knows(self, name: str) -> bool:
        """Whether a tensor's rank, at least, is known."""
        known = self.type_of(name)
        return known is not None and known.shape is not None

    def fixed(self, name: str, axes: slice = slice(1, None)) -> tuple[int, ...]:
        """The lengths of these axes (all but the first), which must be known numbers."""
        shape = self.shape(name)[axes]
        if not all(isinstance(n, int) for n in shape):
            raise CompileError(
                f"{self.label(name)} has the shape {describe(self.shape(name))}; only the batch, "
                "the first axis, may vary: export the model with the others fixed"
            )
        return tuple(int(n) for n in shape)

    def label(self, name: str) -> str:
        """What to call a tensor or a node in a message."""
        return self.labels.get(name, f"tensor {name!r}")

    def where(self, node: Node) -> str:
        """A node in a message: its operator, and what it stems from in the model."""
        return f"{node.op} ({self.label(node.origin)})"


def in_order(nodes: Sequence[Node], outputs: Iterable[str] | None = None) -> list[Node]:
    """The nodes that the outputs need (all), each after those it reads, outputs in their order."""
    made = {name: node for node in nodes for name in node.outputs if name}
    wanted = list(made if outputs is None else outputs)
    done: dict[int, Node] = {}
    stack = [(made[name], False) for name in reversed(wanted)]
    while stack:
        node, ready = stack.pop()
        if id(node) in done:
            continue
        if ready:
            done[id(node)] = node
            continue
        stack.append((node, True))
        stack += [(made[n], False) for n in reversed(node.inputs) if n in made]
    return list(done.values())


class Emitter:
    """Adds nodes to a graph under fresh names.

    `origin` names the model's node that the new ones stem from, for messages.
    """

    def __init__(self, graph: Graph, origin: str = "") -> None:
        self.graph = graph
        self.origin = origin

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output; returns the output's name."""
        return self.ops(op, inputs, 1, **attributes)[0]

    def ops(
        self, op: str, inputs: Iterable[str], outputs: int, **attributes: Any
    ) -> tuple[str, ...]:
        """Add an operator with several outputs; returns their names."""
        names = tuple(self.name() for _ in range(outputs))
        self.graph.nodes.append(
            Node(op, tuple(inputs), names, attributes, f"{self.origin}.{names[0]}")
        )
        return names

    def const(self, value: Any, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a constant; returns its name."""
        name = self.name()
        self.graph.constants[name] = np.asarray(value, dtype=dtype)
        return name

    def ints(self, *values: int) -> str:
        """Add a one-dimensional int64 constant: axes, a shape."""
        return self.const(values, np.int64)

    def name(self) -> str:
        """A name that nothing in the graph has."""
        self.graph.fresh += 1
        return f"e{self.graph.fresh}"


def describe(shape: Shape | None) -> str:
    """A shape as a person writes it: [batch, 3, 32, 32]."""
    return "of unknown rank" if shape is None else f"[{', '.join(map(str, shape))}]"
