"""Models of other operator sets, brought to the one that the compiler works in.

Older ones go through ONNX's own converter. It cannot convert down, but nearly all that changed in
newer sets are the types that operators take: those are taken as they are. Operators that are new,
and defined by others, are written as these.
"""

import onnx
from onnx import checker, defs, helper, inliner, shape_inference, version_converter

from coordinator.compiler import bodies, specification
from coordinator.compiler.errors import CompileError, in_short
from coordinator.compiler.graph import OPSET

_OLDEST = 7
"""Before it, operators broadcast by attributes; nothing exports that any more."""
_SAME = frozenset(
    """
    Acos Acosh Asin Asinh Atan Atanh AveragePool Bernoulli BitShift Cast CastLike Celu Compress
    Constant ConstantOfShape Conv ConvTranspose Cos Cosh DeformConv DepthToSpace Det Dropout
    Einsum Elu EyeLike Flatten GRU GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample
    HardSigmoid HardSwish Identity InstanceNormalization LSTM LpNormalization LpPool MaxPool
    MaxRoiPool MaxUnpool Mish Mod Multinomial NegativeLogLikelihoodLoss OneHot Pad RNN
    RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range ReduceLogSum
    ReduceLogSumExp Reshape ReverseSequence RoiAlign Round Selu Shape Sin Sinh Size Softplus
    Softsign SpaceToDepth Squeeze Tan ThresholdedRelu TopK Transpose Unique Unsqueeze
    """.split()  # noqa: SIM905
)
"""Operators of sets 22 to 28 that mean what they mean in `OPSET`, as far as their attributes are
those that it knows. AveragePool, LpPool and MaxPool differ in `ceil_mode`; see `ceiling.py`."""


def working(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model in the operator set `OPSET`. Raises `CompileError`."""
    found = specification.version(proto)
    if found < _OLDEST:
        raise _refused(found, f"sets before {_OLDEST} are too old")
    if found < OPSET:
        return _raised(proto, found)
    if found > OPSET:
        return _lowered(proto, found)
    return proto


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its own functions, which some exporters write, as plain operators."""
    return inliner.inline_local_functions(proto, convert_version=True) if proto.functions else proto


def _refused(found: int, reason: str) -> CompileError:
    return CompileError(
        f"the model uses ONNX operator set {found} and cannot be converted to {OPSET} "
        f"({reason}); export it with operator set {OPSET}"
    )


def _raised(proto: onnx.ModelProto, found: int) -> onnx.ModelProto:
    try:
        converted: onnx.ModelProto = version_converter.convert_version(proto, OPSET)
    except Exception as error:  # noqa: BLE001  (the converter raises several kinds)
        raise _refused(found, in_short(error)) from None
    return converted


def _lowered(proto: onnx.ModelProto, found: int) -> onnx.ModelProto:
    if found > defs.onnx_opset_version():
        raise _refused(found, "the onnx package that is installed here does not know it")
    try:
        proto = bodies.older(_typed(proto), found)
    except Exception as error:  # noqa: BLE001  (the inliner raises plain RuntimeError)
        raise _refused(found, in_short(error)) from None
    for node in proto.graph.node:
        reason = _changed(node, found)
        if reason:
            raise _refused(found, reason)
    lowered = onnx.ModelProto()
    lowered.CopyFrom(proto)
    del lowered.opset_import[:]
    lowered.opset_import.append(helper.make_opsetid("", OPSET))
    try:
        checker.check_model(lowered)
    except checker.ValidationError as error:
        raise _refused(found, in_short(error)) from None
    return lowered


def _typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the type of every tensor said: what functions are made of depends on them."""
    typed: onnx.ModelProto = shape_inference.infer_shapes(proto, data_prop=True)
    for tensor in typed.graph.initializer:
        typed.graph.value_info.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return typed


def _changed(node: onnx.NodeProto, found: int) -> str:
    """What of a node is not in `OPSET`; empty if it means the same there."""
    old, new = specification.schema(node.op_type), specification.schema(node.op_type, found)
    if old is None:
        return f"operator {node.op_type} is newer and has no definition by older ones"
    if new is not None and new.since_version > OPSET and node.op_type not in _SAME:
        return f"operator {node.op_type} changed its meaning"
    unknown = [a.name for a in node.attribute if a.name not in old.attributes]
    return f"attribute {unknown[0]} of {node.op_type} is newer" if unknown else ""
