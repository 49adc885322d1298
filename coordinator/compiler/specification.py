"""What ONNX specifies: operators by their set, and the set that a model uses."""

import onnx
from onnx import defs

from coordinator.compiler.graph import OPSET

DOMAINS = ("", "ai.onnx")
"""The two names of the domain that the specification is of."""


def schema(op: str, opset: int = OPSET) -> defs.OpSchema | None:
    """An operator as it is in this operator set; None if the set has no such."""
    try:
        return defs.get_schema(op, opset, "")
    except defs.SchemaError:
        return None


def version(proto: onnx.ModelProto) -> int:
    """The version of ONNX's own operator set that a model uses; 0 if it uses none."""
    return max((o.version for o in proto.opset_import if o.domain in DOMAINS), default=0)
