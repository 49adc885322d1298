"""Where the entries of the operators are kept, and how one is written.

    operator("Gemm", weights=(1, 2))        this operator can be trained through

    @expansion("Conv")                      before differentiation, write the node otherwise
    def explicit_pads(emit, node): ...

    @lowering("ReluGrad")                   a gradient operator of the training build only
    def relu_grad(emit, node, forward): ...

    @gradient("Elu")                        one that the gradient builder cannot differentiate
    def elu_grad(emit, node, forward): ...

    @training("Dropout")                    what the operator is in training (see `modes.py`)
    @inference("Dropout")                   and what in evaluation

Operators whose gradient the training build writes in standard operators need the first only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from coordinator.compiler.graph import Emitter, Node


@dataclass(frozen=True)
class Operator:
    """An operator that gradients pass through.

    `weights`: inputs that, when they are float32 initialisers of the model, are trained.
    `view`: the operator only rearranges its first input, so a weight may come through it.
    `least`: more than 0 where such an initialiser may as well be a constant: it is a weight from so
    many elements on, and only after another weight (`trained.py` tells it in full).
    `stops`: no gradient passes, as its slope is zero wherever it has one, or its result no number;
    it may stand beside a gradient's way.
    `note`: what whoever exports a model should know of it, for the documentation's table.
    """

    weights: tuple[int, ...] = ()
    view: bool = False
    least: int = 0
    stops: bool = False
    note: str = ""


Expansion = Callable[[Emitter, Node], Sequence[str] | None]
"""Emits what computes the node otherwise; returns the new outputs, or None to leave it as is."""

Lowering = Callable[[Emitter, Node, Node], Sequence[str] | None]
"""Emits standard operators that compute a gradient node, given also the model's node that it is
the gradient of; returns the new outputs, "" for one that nobody wants, or None to leave the node as
it is."""

Rule = TypeVar("Rule", Expansion, Lowering)


@dataclass(frozen=True)
class Gradient:
    """An operator's own gradient. Only the first `inputs` inputs have one.

    `rule` is a lowering from the gradients of the operator's outputs (`node.inputs`) to those of
    its inputs (`node.outputs`, "" where none is wanted).
    """

    inputs: int
    rule: Lowering


OPERATORS: dict[str, Operator] = {}
EXPANSIONS: dict[str, Expansion] = {}
LOWERINGS: dict[str, Lowering] = {}
GRADIENTS: dict[str, Gradient] = {}
TRAINING: dict[str, Expansion] = {}
INFERENCE: dict[str, Expansion] = {}


def operator(
    op: str,
    *,
    weights: tuple[int, ...] = (),
    view: bool = False,
    least: int = 0,
    stops: bool = False,
    note: str = "",
) -> None:
    """Say that gradients pass through an operator, or may stop at it."""
    assert op not in OPERATORS, op
    OPERATORS[op] = Operator(weights, view, least, stops, note)


def expansion(op: str) -> Callable[[Expansion], Expansion]:
    """Say how an operator is written before differentiation."""
    return _entry(EXPANSIONS, op)


def gradient(op: str, inputs: int = 1) -> Callable[[Lowering], Lowering]:
    """Say what the gradient of an operator is, by its first `inputs` inputs.

    The operator itself stays as it is. It may have only one output that has a gradient, the first.
    """

    def register(function: Lowering) -> Lowering:
        assert op not in GRADIENTS, op
        GRADIENTS[op] = Gradient(inputs, function)
        return function

    return register


def training(op: str) -> Callable[[Expansion], Expansion]:
    """Say how an operator is written in train.onnx, before its expansion."""
    return _entry(TRAINING, op)


def inference(op: str) -> Callable[[Expansion], Expansion]:
    """Say how an operator is written in evaluate.onnx and model.onnx."""
    return _entry(INFERENCE, op)


def lowering(op: str) -> Callable[[Lowering], Lowering]:
    """Say how an operator of the training build is computed with standard ones."""
    return _entry(LOWERINGS, op)


def _entry(table: dict[str, Rule], op: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        assert op not in table, op
        table[op] = function
        return function

    return register


def supported() -> str:
    """The operators that can be trained through, for messages and documentation."""
    return ", ".join(sorted(op for op, entry in OPERATORS.items() if not entry.stops))
