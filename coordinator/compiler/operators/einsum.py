"""Einsum as transposes, reshapes and matrix products, two operands at a time."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.registry import expansion, operator

operator("Einsum", weights=(0, 1, 2), note="no index twice in one operand")

Labels = list[str]


class Operand(NamedTuple):
    """A tensor and the index that each of its axes goes by."""

    tensor: str
    labels: Labels


@expansion("Einsum")
def einsum(emit: Emitter, node: Node) -> list[str]:
    """The sum of products, operands joined from the left."""
    operands, output = _parsed(emit, node)
    lengths: dict[str, int | str] = {}
    for name, labels in operands:
        for label, n in zip(labels, emit.graph.shape(name), strict=True):
            if lengths.setdefault(label, n) == 1:
                lengths[label] = n
    first, *rest = operands
    for i, second in enumerate(rest):
        later = {label for _, labels in rest[i + 1 :] for label in labels} | set(output)
        first = _joined(emit, first, second, later, lengths)
    first = _summed(emit, first, set(output))
    return [_ordered(emit, first, output)]


def _parsed(emit: Emitter, node: Node) -> tuple[list[Operand], Labels]:
    """The operands and the indices of the output; an ellipsis as indices of its own."""
    where = emit.graph.where(node)
    equation = str(node.attributes["equation"]).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    ranks = [len(emit.graph.shape(name)) for name in node.inputs]
    dots = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    most = max((n for term, n in zip(terms, dots, strict=True) if "..." in term), default=0)

    def labels_of(term: str, count: int) -> Labels:
        before, ellipsis, after = term.partition("...")
        extra = [f".{i}" for i in range(most - count, most)] if ellipsis else []
        return [*before, *extra, *after]

    operands = [
        Operand(name, labels_of(term, count))
        for name, term, count in zip(node.inputs, terms, dots, strict=True)
    ]
    if any(len(set(labels)) < len(labels) for _, labels in operands):
        raise CompileError(f"{where}: an index twice in one operand is not supported: {equation}")
    if arrow:
        return operands, labels_of(right, most)
    every = [label for _, labels in operands for label in labels]
    once = sorted(n for n in every if every.count(n) == 1 and not n.startswith("."))
    return operands, [*(f".{i}" for i in range(most)), *once]


def _summed(emit: Emitter, operand: Operand, needed: set[str]) -> Operand:
    """Without the indices that nobody needs any more."""
    axes = [i for i, label in enumerate(operand.labels) if label not in needed]
    if not axes:
        return operand
    total = emit.op("ReduceSum", operand.tensor, emit.ints(*axes), keepdims=0)
    return Operand(total, [label for label in operand.labels if label in needed])


def _ordered(emit: Emitter, operand: Operand, labels: Sequence[str]) -> str:
    if operand.labels == list(labels):
        return operand.tensor
    perm = [operand.labels.index(label) for label in labels]
    return emit.op("Transpose", operand.tensor, perm=perm)


def _joined(
    emit: Emitter,
    one: Operand,
    two: Operand,
    later: set[str],
    lengths: dict[str, int | str],
) -> Operand:
    """The product of two operands, summed over the indices that no one needs later."""
    one = _summed(emit, one, later | set(two.labels))
    two = _summed(emit, two, later | set(one.labels))
    shared = [label for label in one.labels if label in two.labels]
    batch = [label for label in shared if label in later]
    inner = [label for label in shared if label not in later]
    rows = [label for label in one.labels if label not in shared]
    columns = [label for label in two.labels if label not in shared]
    a = _grouped(emit, one, (batch, rows, inner), lengths)
    b = _grouped(emit, two, (batch, inner, columns), lengths)
    labels = [*batch, *rows, *columns]
    product = emit.op("MatMul", a, b)
    if len(rows) == len(columns) == 1:
        return Operand(product, labels)
    return Operand(emit.op("Reshape", product, _target(emit, labels, lengths)), labels)


def _grouped(
    emit: Emitter,
    operand: Operand,
    groups: tuple[Labels, Labels, Labels],
    lengths: dict[str, int | str],
) -> str:
    """The operand as matrices: the first group's axes, then one axis a group."""
    batch, rows, columns = groups
    ordered = _ordered(emit, operand, [*batch, *rows, *columns])
    if len(rows) == len(columns) == 1:
        return ordered
    shape = emit.graph.shape(operand.tensor) if emit.graph.knows(operand.tensor) else None
    own = {
        label: shape[i] if shape is not None else lengths[label]
        for i, label in enumerate(operand.labels)
    }
    return emit.op("Reshape", ordered, _target(emit, batch, own, (rows, columns)))


def _target(
    emit: Emitter,
    labels: Labels,
    lengths: dict[str, int | str],
    groups: tuple[Labels, ...] = (),
) -> str:
    """The target of a reshape to axes of these labels and then one for each group."""
    numbers = [_length([label], lengths) for label in labels]
    return emit.ints(*numbers, *(_length(group, lengths) for group in groups))


def _length(labels: Labels, lengths: dict[str, int | str]) -> int:
    """The product of the axes' lengths; -1 if one of them is the batch."""
    found = [lengths[label] for label in labels]
    return -1 if any(isinstance(n, str) for n in found) else math.prod(int(n) for n in found)
