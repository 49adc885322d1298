"""Reductions along axes.

X is the input, Y the result, Yk the result with the reduced axes kept at length 1. Of several
largest (smallest) elements each gets an equal share of the gradient; where a norm has no slope, at
0, it is taken as 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import FLOAT, Emitter, Node
from coordinator.compiler.operators.elementwise import or_infinity
from coordinator.compiler.operators.registry import expansion, gradient, inference, operator

_OPS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2",
        "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")  # fmt: skip
for _op in _OPS:
    operator(_op, note="constant axes")
operator("ArgMax", stops=True)
operator("ArgMin", stops=True)


@dataclass(frozen=True)
class Reduction:
    """What a node reduces: its axes, counted from the first, and whether they stay."""

    axes: tuple[int, ...]
    keep: bool


def reduction_of(emit: Emitter, node: Node) -> Reduction:
    """Raises `CompileError` when the axes are computed by the model."""
    rank = len(emit.graph.shape(node.inputs[0]))
    axes: tuple[int, ...] = node.integers("axes", ())
    if given := node.input(1):
        value = emit.graph.constants.get(given)
        if value is None:
            raise CompileError(
                f"{emit.graph.where(node)} with axes that the model computes "
                "is not supported; export the model with constant axes"
            )
        axes = tuple(int(n) for n in value.ravel())
    if not axes and not node.attributes.get("noop_with_empty_axes", 0):
        axes = tuple(range(rank))
    found = tuple(sorted({n % rank for n in axes})) if rank else ()
    return Reduction(found, bool(node.attributes.get("keepdims", 1)))


def _explicit(emit: Emitter, node: Node) -> list[str] | None:
    """The node with its axes as a constant; nothing at all where there is nothing to reduce."""
    found = reduction_of(emit, node)
    x = node.inputs[0]
    if not found.axes:
        if node.op not in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"):
            raise CompileError(
                f"{emit.graph.where(node)} without any axis is not supported; "
                "leave it out of the model, or write it as an elementwise operator"
            )
        return [x]
    axes, keep = emit.ints(*found.axes), int(found.keep)
    if node.op == "ReduceLogSum":
        return [emit.op("Log", emit.op("ReduceSum", x, axes, keepdims=keep))]
    lengths = [emit.graph.shape(x)[n] for n in found.axes]
    if node.op == "ReduceMean" and all(isinstance(n, int) for n in lengths):
        # Its gradient would count the elements anew at each step.
        count = math.prod(int(n) for n in lengths)
        total = emit.op("ReduceSum", x, axes, keepdims=keep)
        return [emit.op("Mul", total, emit.const(1 / count))]
    if len(found.axes) == len(emit.graph.shape(x)) and len(node.inputs) == 1:
        return None
    return [emit.op(node.op, x, axes, keepdims=keep)]


def _nothing(emit: Emitter, node: Node) -> list[str] | None:
    """The input, where there is nothing to reduce: some kernels of ONNX Runtime fail there."""
    if not node.attributes.get("noop_with_empty_axes", 0):
        return None
    computed = any(name and name not in emit.graph.constants for name in node.inputs[1:])
    if computed or reduction_of(emit, node).axes:
        return None
    return _explicit(emit, node)


for _op in _OPS:
    expansion(_op)(_explicit)
    inference(_op)(_nothing)


Slope = Callable[[Emitter, str, str, str, str], str]
"""From the axes' constant, X, Yk and dYk to dX."""


def _slope(op: str) -> Callable[[Slope], Slope]:
    """Say what a reduction's gradient is, given the axes, X, Yk and dYk."""

    def register(function: Slope) -> Slope:
        @gradient(op)
        def grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
            found = reduction_of(emit, forward)
            axes = emit.ints(*found.axes)
            y, dy = forward.outputs[0], node.inputs[0]
            if not found.keep:
                y, dy = emit.op("Unsqueeze", y, axes), emit.op("Unsqueeze", dy, axes)
            return [function(emit, axes, forward.inputs[0], y, dy)]

        return function

    return register


@_slope("ReduceMin")
@_slope("ReduceMax")
def extreme(emit: Emitter, axes: str, x: str, y: str, dy: str) -> str:
    """dX = dYk / n for the n elements that equal Yk, elsewhere 0."""
    mask = emit.op("Cast", emit.op("Equal", x, y), to=FLOAT)
    count = emit.op("ReduceSum", mask, axes, keepdims=1)
    return emit.op("Mul", mask, emit.op("Div", dy, count))


@_slope("ReduceL1")
def l1(emit: Emitter, axes: str, x: str, y: str, dy: str) -> str:
    """dX = dYk sign(X)."""
    return emit.op("Mul", emit.op("Sign", x), dy)


@_slope("ReduceL2")
def l2(emit: Emitter, axes: str, x: str, y: str, dy: str) -> str:
    """dX = dYk X / Yk, and 0 where Yk is 0."""
    return emit.op("Mul", x, emit.op("Div", dy, or_infinity(emit, y)))


@_slope("ReduceSumSquare")
def sum_square(emit: Emitter, axes: str, x: str, y: str, dy: str) -> str:
    """dX = 2 dYk X."""
    return emit.op("Mul", x, emit.op("Mul", dy, emit.const(2)))


@_slope("ReduceLogSumExp")
def log_sum_exp(emit: Emitter, axes: str, x: str, y: str, dy: str) -> str:
    """dX = dYk exp(X - Yk)."""
    return emit.op("Mul", emit.op("Exp", emit.op("Sub", x, y)), dy)
