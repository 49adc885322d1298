"""Elementwise arithmetic with broadcasting; comparisons and logic, which no gradient passes.

Where a function has no slope, 0 is taken: for Abs, Sqrt and Pow at 0. Of several largest (smallest)
operands of Max (Min) each gets an equal share.
"""

from onnx.helper import np_dtype_to_tensor_dtype

from coordinator.compiler.graph import FLOAT, Array, Emitter, Node
from coordinator.compiler.operators.elementwise import or_infinity, repeated, summed_to
from coordinator.compiler.operators.registry import expansion, gradient, lowering, operator

operator("Add", weights=(0, 1), least=1)
for _op in (
    "Sub",
    "Div",
    "Neg",
    "Pow",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "Abs",
    "Erf",
    "Sin",
    "Cos",
    "Max",
    "Min",
    "Sum",
    "Mean",
    "Where",
    "Cast",
    "CastLike",
):
    operator(_op)
for _op in (
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Mod",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "And",
    "Or",
    "Xor",
    "Not",
    "IsNaN",
    "IsInf",
):
    operator(_op, stops=True)
operator("Mul", weights=(0, 1), least=2)


@lowering("Scale")
def scale(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """Y = X * scale, or X / scale if `scale_down`; the scale is a scalar of any type."""
    x, factor = node.inputs
    as_float = emit.op("Cast", factor, to=FLOAT)
    return [emit.op("Div" if node.attributes.get("scale_down") else "Mul", x, as_float)]


@lowering("BroadcastGradientArgs")
def broadcast_gradient_args(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """The axes along which each operand of a broadcast was repeated, to be summed over."""
    a, b = (emit.graph.shape(name) for name in forward.inputs[:2])
    axes = [repeated(emit, forward, one, other) for one, other in ((a, b), (b, a))]
    return [
        emit.ints(*found) if wanted else ""
        for found, wanted in zip(axes, node.outputs, strict=False)
    ]


@lowering("DivGrad")
def div_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dA = dY / B, dB = -dA Y."""
    dy, a, b = node.inputs
    share = emit.op("Div", dy, b)
    da = db = ""
    if node.outputs[0]:
        da = summed_to(emit, forward, share, a)
    if node.output(1):
        each = emit.op("Neg", emit.op("Mul", share, forward.outputs[0]))
        db = summed_to(emit, forward, each, b)
    return [da, db]


@gradient("Sqrt")
def sqrt_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY / (2 Y), and 0 where Y is 0."""
    half = emit.op("Mul", node.inputs[0], emit.const(0.5))
    return [emit.op("Div", half, or_infinity(emit, forward.outputs[0]))]


@expansion("Pow")
def simple_pow(emit: Emitter, node: Node) -> list[str] | None:
    """Small exponents as products; others as floats, which is all that the gradient knows."""
    base, exponent = node.inputs
    value = emit.graph.constants.get(exponent)
    if value is not None and value.size == 1 and value.ndim <= len(emit.graph.shape(base)):
        match float(value.item()):
            case 1.0:
                return [base]
            case 2.0:
                return [emit.op("Mul", base, base)]
            case 0.5:
                return [emit.op("Sqrt", base)]
            case -1.0:
                return [emit.op("Reciprocal", base)]
    if emit.graph.dtype(exponent).kind != "f":
        return [emit.op("Pow", base, emit.op("Cast", exponent, to=FLOAT))]
    return None


@gradient("Pow", inputs=2)
def pow_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dX = dY P X^(P - 1), and 0 where X^(P - 1) is infinite at X = 0 though Y is not;
    dP = dY Y log(X), and 0 where X <= 0, as in PyTorch."""
    (dy,), (x, p) = node.inputs, forward.inputs
    dx = dp = ""
    if node.outputs[0]:
        value = emit.graph.constants.get(p)
        base = x if value is not None and _never_below_one(value) else _safe_base(emit, x, p)
        power = emit.op("Pow", base, emit.op("Sub", p, emit.const(1)))
        dx = summed_to(emit, forward, emit.op("Mul", dy, emit.op("Mul", power, p)), x)
    if node.output(1):
        positive = emit.op("Greater", x, emit.const(0))
        log = emit.op("Log", emit.op("Where", positive, x, emit.const(1)))
        each = emit.op("Mul", dy, emit.op("Mul", forward.outputs[0], log))
        dp = summed_to(emit, forward, each, p)
    return [dx, dp]


def _never_below_one(exponent: Array) -> bool:
    return bool((exponent >= 1).all())


def _safe_base(emit: Emitter, x: str, p: str) -> str:
    """x, and infinity where it is 0 and 0 <= p < 1: to the power of p - 1 this is 0."""
    zero = emit.op("Equal", x, emit.const(0))
    between = emit.op(
        "And", emit.op("GreaterOrEqual", p, emit.const(0)), emit.op("Less", p, emit.const(1))
    )
    return emit.op("Where", emit.op("And", zero, between), emit.const(float("inf")), x)


@gradient("Where", inputs=3)
def where_grad(emit: Emitter, node: Node, forward: Node) -> list[str]:
    """dA = dY where the condition holds, dB = dY elsewhere, and 0 in the other places."""
    (dy,), (condition, a, b) = node.inputs, forward.inputs
    chosen = emit.op("Mul", dy, emit.op("Cast", condition, to=FLOAT))
    da = summed_to(emit, forward, chosen, a) if node.output(1) else ""
    db = summed_to(emit, forward, emit.op("Sub", dy, chosen), b) if node.output(2) else ""
    return ["", da, db]


@expansion("Sum")
def sum_of_pairs(emit: Emitter, node: Node) -> list[str]:
    """One Add after the other."""
    total, *rest = node.inputs
    for name in rest:
        total = emit.op("Add", total, name)
    return [total]


@expansion("Mean")
def mean(emit: Emitter, node: Node) -> list[str]:
    """The sum, divided."""
    return [emit.op("Mul", emit.op("Sum", *node.inputs), emit.const(1 / len(node.inputs)))]


@expansion("CastLike")
def cast(emit: Emitter, node: Node) -> list[str]:
    """Cast to the type of the second input."""
    x, like = node.inputs
    return [emit.op("Cast", x, to=int(np_dtype_to_tensor_dtype(emit.graph.dtype(like))))]
