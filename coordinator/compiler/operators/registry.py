"""Where the entries of the operators are kept, and how one is written.

    operator("Gemm", weights=(1, 2))        this operator can be trained through

    @expansion("Conv")                      before differentiation, write the node otherwise
    def explicit_pads(emit, node): ...

    @lowering("ReluGrad")                   a gradient operator of the training build only
    def relu_grad(emit, node, forward): ...

    @training("Dropout")                    what the operator is in training (see `modes.py`)
    @inference("Dropout")                   and what in evaluation

Operators whose gradient the training build writes in standard operators need the first only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator.compiler.graph import Emitter, Node


@dataclass(frozen=True)
class Operator:
    """An operator that gradients pass through.

    `weights`: inputs that, when they are float32 initialisers of the model, are trained.
    `view`: the operator only rearranges its first input, so a weight may come through it.
    """

    weights: tuple[int, ...] = ()
    view: bool = False


Expansion = Callable[[Emitter, Node], Sequence[str] | None]
"""Emits what computes the node otherwise; returns the new outputs, or None to leave it as is."""

Lowering = Callable[[Emitter, Node, Node], Sequence[str]]
"""Emits standard operators that compute a gradient node, given also the model's node that it is
the gradient of; returns the new outputs, "" for one that nobody wants."""

OPERATORS: dict[str, Operator] = {}
EXPANSIONS: dict[str, Expansion] = {}
LOWERINGS: dict[str, Lowering] = {}
TRAINING: dict[str, Expansion] = {}
INFERENCE: dict[str, Expansion] = {}


def operator(op: str, *, weights: tuple[int, ...] = (), view: bool = False) -> None:
    """Say that gradients pass through an operator."""
    assert op not in OPERATORS, op
    OPERATORS[op] = Operator(weights, view)


def expansion(op: str) -> Callable[[Expansion], Expansion]:
    """Say how an operator is written before differentiation."""
    return _entry(EXPANSIONS, op)


def training(op: str) -> Callable[[Expansion], Expansion]:
    """Say how an operator is written in train.onnx, before its expansion."""
    return _entry(TRAINING, op)


def inference(op: str) -> Callable[[Expansion], Expansion]:
    """Say how an operator is written in evaluate.onnx and model.onnx."""
    return _entry(INFERENCE, op)


def _entry(table: dict[str, Expansion], op: str) -> Callable[[Expansion], Expansion]:
    def register(function: Expansion) -> Expansion:
        assert op not in table, op
        table[op] = function
        return function

    return register


def lowering(op: str) -> Callable[[Lowering], Lowering]:
    """Say how an operator of the training build is computed with standard ones."""

    def register(function: Lowering) -> Lowering:
        assert op not in LOWERINGS, op
        LOWERINGS[op] = function
        return function

    return register


def supported() -> str:
    """The supported operators, for messages and documentation."""
    return ", ".join(sorted(OPERATORS))
