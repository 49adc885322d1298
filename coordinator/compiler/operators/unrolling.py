"""Recurrent layers written out step by step, for a sequence of a fixed length.

What does not depend on the step before is computed once for all steps: the product of the inputs
by their weights, [batch, steps * directions * gates * hidden], cut into the pieces that the steps
take. Each step is then a handful of nodes on matrices [batch, hidden]. The batch comes first
throughout, so that its length need not be known.

A `Split` all of whose outputs are used has a gradient, the others' is wrong in the training build:
cells must use every piece they are given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coordinator.compiler.constancy import filled
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, Graph, Node, describe
from coordinator.compiler.probes import multiple

STEPS_LIMIT = 512
"""Steps of a sequence, at most: each is a part of its own of the graph that devices load."""

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

Activation = Callable[[str], str]
"""Adds an elementwise function of a tensor."""
State = tuple[str | None, ...]
"""A cell's state, each tensor [batch, hidden]; None for zeros, before the first step."""
Step = Callable[[tuple[str, ...], State], tuple[str, ...]]
"""From the step's pieces of the input's product and the state before to the state after, the
output first."""


@dataclass(frozen=True)
class Layer:
    """A recurrent node that can be unrolled, and how large it is.

    `directions` has one entry each: whether it reads the sequence from its end.
    """

    emit: Emitter
    node: Node
    gates: int
    steps: int
    hidden: int
    directions: tuple[bool, ...]

    @property
    def batch_first(self) -> bool:
        """Whether the batch is the first axis of the node's tensors, not the sequence."""
        return bool(self.node.attributes.get("layout", 0))

    @property
    def where(self) -> str:
        """The node, for messages."""
        return self.emit.graph.where(self.node)

    def of_direction(self, name: str, axis: int = 0) -> list[str]:
        """A tensor cut along its axis of directions, one for each, without that axis."""
        count, emit = len(self.directions), self.emit
        parts = (name,) if count == 1 else split(emit, name, [1] * count, axis)
        return [emit.op("Squeeze", part, emit.ints(axis)) for part in parts]

    def bias_parts(self) -> tuple[str, str] | None:
        """The biases of the inputs' and of the state's products, [directions, gates * hidden]."""
        if not self.node.input(3):
            return None
        wide = self.gates * self.hidden
        one, other = split(self.emit, self.node.input(3), [wide, wide], axis=1)
        return one, other

    def activations(self, defaults: tuple[str, ...]) -> list[list[Activation]]:
        """The functions of each direction's cell. Raises `CompileError` for unknown ones."""
        count = len(defaults)
        names = self.node.attributes.get("activations") or defaults * len(self.directions)
        alphas = iter(self.node.attributes.get("activation_alpha", ()))
        betas = iter(self.node.attributes.get("activation_beta", ()))
        if len(names) != count * len(self.directions):
            raise CompileError(
                f"{self.where} has {len(names)} activations; it takes {count} a direction"
            )
        found = [self._activation(str(name).lower(), alphas, betas) for name in names]
        return [found[i : i + count] for i in range(0, len(found), count)]

    def _activation(self, name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
        emit = self.emit
        match name:
            case "tanh" | "relu" | "sigmoid":
                return lambda x: emit.op(name.capitalize(), x)
            case "affine":
                alpha, beta = float(next(alphas, 1.0)), float(next(betas, 0.0))
                return lambda x: emit.op(
                    "Add", emit.op("Mul", x, emit.const(alpha)), emit.const(beta)
                )
            case "scaledtanh":
                alpha, beta = float(next(alphas, 1.0)), float(next(betas, 1.0))
                return lambda x: emit.op(
                    "Mul", emit.op("Tanh", emit.op("Mul", x, emit.const(beta))), emit.const(alpha)
                )
            case _:
                raise CompileError(
                    f"{self.where} has the activation {name!r}; supported in recurrent layers are "
                    "Tanh, Relu, Sigmoid, Affine and ScaledTanh"
                )

    def unrolled(
        self,
        bias: str | None,
        pieces: tuple[int, ...],
        states: int,
        cells: list[Step],
    ) -> list[str]:
        """Run each direction's cell along the sequence; returns the node's outputs.

        `bias`, [directions * gates * hidden], is added to the inputs' product, which is cut for
        each step into `pieces`, in units of `hidden`.
        """
        parts = self._inputs(bias, pieces)
        first = [self._initial(5 + i) for i in range(states)]
        outputs: list[list[str]] = [[""] * len(self.directions) for _ in range(self.steps)]
        last: list[tuple[str, ...]] = []
        for d, (backwards, cell) in enumerate(zip(self.directions, cells, strict=True)):
            state: State = tuple(one[d] for one in first)
            for t in range(self.steps)[:: -1 if backwards else 1]:
                state = after = cell(parts[t][d], state)
                outputs[t][d] = after[0]
            last.append(after)
        made = [self._sequence(outputs) if self.node.output(0) else ""]
        for i in range(states):
            made.append(self._final(last, i) if self.node.output(1 + i) else "")
        return made

    def _inputs(self, bias: str | None, pieces: tuple[int, ...]) -> list[list[tuple[str, ...]]]:
        """The pieces of the inputs' product, by step and direction."""
        emit, count = self.emit, len(self.directions)
        wide = count * self.gates * self.hidden
        x, w = self.node.inputs[:2]
        (size,) = emit.graph.fixed(w, slice(2, None))
        if not self.batch_first:
            x = batch_first(emit, x)
        matrix = emit.op("Reshape", w, emit.ints(wide, size))
        product = emit.op("MatMul", x, emit.op("Transpose", matrix, perm=[1, 0]))
        if bias is not None:
            product = emit.op("Add", product, bias)
        flat = emit.op("Reshape", product, emit.ints(-1, self.steps * wide))
        sizes = [n * self.hidden for n in pieces] * (self.steps * count)
        parts = iter(split(emit, flat, sizes, axis=1))
        return [
            [tuple(next(parts) for _ in pieces) for _ in self.directions] for _ in range(self.steps)
        ]

    def _initial(self, place: int) -> list[str | None]:
        """The state before the first step, for each direction."""
        name = self.node.input(place)
        if not name or filled(self.emit.graph, name) == 0:
            return [None] * len(self.directions)
        axis = 1 if self.batch_first else 0
        batch = self.emit.graph.shape(name)[1 - axis]
        if isinstance(batch, int):
            raise CompileError(
                f"{self.where} starts from a state for {batch} examples; export the model with a "
                "batch that varies, or without the state (then it is zeros)"
            )
        return list(self.of_direction(name, axis))

    def _sequence(self, outputs: list[list[str]]) -> str:
        """Y: every step's output."""
        emit = self.emit
        flat = emit.op("Concat", *(h for step in outputs for h in step), axis=1)
        shape = emit.ints(-1, self.steps, len(self.directions), self.hidden)
        y = emit.op("Reshape", flat, shape)
        return y if self.batch_first else emit.op("Transpose", y, perm=[1, 2, 0, 3])

    def _final(self, last: list[tuple[str, ...]], part: int) -> str:
        """Y_h or Y_c: each direction's state after its last step."""
        emit, axis = self.emit, 1 if self.batch_first else 0
        found = [state[part] for state in last]
        if part:  # a model that uses Y_c alone would leave pieces of the last step without use
            found = [
                emit.op("Add", now, emit.op("Mul", state[0], emit.const(0.0)))
                for now, state in zip(found, last, strict=True)
            ]
        parts = [emit.op("Unsqueeze", h, emit.ints(axis)) for h in found]
        return parts[0] if len(parts) == 1 else emit.op("Concat", *parts, axis=axis)


def layer_of(emit: Emitter, node: Node, gates: int) -> Layer:
    """The layer of a recurrent node with so many gates. Raises `CompileError` if it cannot be
    unrolled."""
    graph, where = emit.graph, emit.graph.where(node)
    direction = str(node.attributes.get("direction", "forward"))
    directions = _DIRECTIONS.get(direction)
    if directions is None:
        raise CompileError(f"{where} has the direction {direction!r}; ONNX knows no such")
    if "clip" in node.attributes:
        raise CompileError(f"{where} clips its gates; export the model without clip")
    shape = graph.shape(node.inputs[0])
    if len(shape) != 3:
        raise CompileError(f"{where} takes a sequence with three axes, not {describe(shape)}")
    places = (1, 0) if node.attributes.get("layout", 0) else (0, 1)
    steps, batch = (shape[i] for i in places)
    if multiple(steps):
        raise CompileError(
            f"{where} reads the batch as its sequence: the model's input has the sequence first; "
            "its first axis must be the batch (in torch: batch_first=True)"
        )
    if not isinstance(steps, int) or not multiple(batch):
        raise CompileError(
            f"{where} reads {describe(shape)}: for training it is unrolled, so the sequence must "
            "have a fixed length and the batch must vary: export the model with a fixed length, "
            "and pad or cut the examples to it"
        )
    if not 1 <= steps <= STEPS_LIMIT:
        raise CompileError(
            f"{where} has a sequence of {steps} steps; at most {STEPS_LIMIT} can be trained, since "
            "each step becomes a part of the graph that devices load: export the model with "
            "shorter sequences"
        )
    lengths = node.input(4)
    if lengths and filled(graph, lengths) != steps:
        raise CompileError(
            f"{where} takes the sequences' lengths (sequence_lens), which is not supported; "
            f"export the model without them: all {steps} steps are used"
        )
    hidden = graph.fixed(node.inputs[2], slice(2, 3))[0]
    return Layer(emit, node, gates, steps, hidden, directions)


def without_zeros(graph: Graph, node: Node) -> Node:
    """The recurrent node without initial states that are zeros, as they are by default."""
    inputs = [
        "" if i in (5, 6) and name and filled(graph, name) == 0 else name
        for i, name in enumerate(node.inputs)
    ]
    while not inputs[-1]:
        inputs.pop()
    return node if tuple(inputs) == node.inputs else replace(node, inputs=tuple(inputs))


def time_first(emit: Emitter, node: Node) -> list[str]:
    """A recurrent node of layout 1, batch first, as one of layout 0."""
    inputs = [
        emit.op("Transpose", name, perm=[1, 0, 2]) if i in (0, 5, 6) and name else name
        for i, name in enumerate(node.inputs)
    ]
    attributes = {k: v for k, v in node.attributes.items() if k != "layout"}
    made = again(emit, node, inputs, attributes)
    perms = ([2, 0, 1, 3], [1, 0, 2], [1, 0, 2])
    return [
        emit.op("Transpose", name, perm=perm) if name else ""
        for name, perm in zip(made, perms, strict=False)
    ]


def again(
    emit: Emitter, node: Node, inputs: Sequence[str], attributes: Mapping[str, Any]
) -> list[str]:
    """The node once more, of other inputs; only the outputs that it has are made."""
    outputs = [emit.name() if name else "" for name in node.outputs]
    name = f"{emit.origin}.{next(filter(None, outputs))}"
    emit.graph.nodes.append(Node(node.op, tuple(inputs), tuple(outputs), dict(attributes), name))
    return outputs


def split(emit: Emitter, name: str, sizes: list[int], axis: int) -> tuple[str, ...]:
    """A tensor cut along an axis into parts of these sizes."""
    if len(sizes) == 1:
        return (name,)
    return emit.ops("Split", (name, emit.ints(*sizes)), len(sizes), axis=axis)


def batch_first(emit: Emitter, x: str) -> str:
    """[steps, batch, ...] as [batch, steps, ...]: often that is where it comes from."""
    made = next((n for n in reversed(emit.graph.nodes) if x in n.outputs), None)
    if made is not None and made.op == "Transpose" and made.integers("perm", ()) == (1, 0, 2):
        return made.inputs[0]
    return emit.op("Transpose", x, perm=[1, 0, 2])
