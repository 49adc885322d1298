"""The table of operators in `docs/models.md`, which `python -m coordinator.compiler.operators`
prints."""

from onnx import defs

from coordinator.compiler.graph import OPSET
from coordinator.compiler.operators.registry import OPERATORS, Operator

BY_BODY = (
    "Attention",
    "CenterCropPad",
    "RMSNormalization",
    "RotaryEmbedding",
    "Shrink",
    "SwiGLU",
    "Swish",
)
"""Operators without an entry that are written out by ONNX's own function body (`bodies.py`), and
that are tested. Others with a body may do as well."""


def markdown() -> str:
    """The table, and what needs no row in it."""
    trained = {op: entry for op, entry in sorted(OPERATORS.items()) if not entry.stops}
    stopping = sorted(op for op, entry in OPERATORS.items() if entry.stops)
    plain = [op for op, entry in trained.items() if not (entry.weights or entry.note)]
    rows = [
        f"| {op} | {_weights(op, entry)} | {entry.note} |"
        for op, entry in trained.items()
        if op not in plain
    ]
    lists = {
        "These have no weights, and nothing to note": plain,
        "These are written out in the others, as ONNX's own definition says": BY_BODY,
        "No gradient passes these, but they may stand beside its way": stopping,
    }
    told = [f"\n{title}: {', '.join(ops)}." for title, ops in lists.items()]
    return "\n".join(["| operator | its weights | note |", "|---|---|---|", *rows, *told, ""])


def _weights(op: str, entry: Operator) -> str:
    """The inputs where initialisers are weights, by the names that ONNX gives them."""
    inputs = defs.get_schema(op, OPSET, "").inputs
    # The last input of an operator with any number of them stands for all that follow.
    names = dict.fromkeys(f"`{inputs[min(i, len(inputs) - 1)].name}`" for i in entry.weights)
    least = f", of {entry.least} numbers or more" if entry.least > 1 else ""
    return ", ".join(names) + (f"{least}, after another weight" if entry.least else "")
