"""Gradients of activations, arithmetic and reductions; and what happens at corners and far out."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coordinator.compiler.building import (
    FLOAT,
    Shape,
    compiled,
    f32,
    ints,
    model,
    node,
    read_by,
    run,
    session,
    task,
    weights,
)
from tests.coordinator.compiler.checking import Case, Gradients, above, check

INT64 = onnx.TensorProto.INT64


def unary(op: str, **attributes: Any) -> Case:
    """The operator, at numbers from -3 to 3."""
    return above(node("Mul", "h two", "w"), node(op, "w", "out", **attributes), two=f32(2))


def positive(*nodes: onnx.NodeProto, **values: Any) -> Case:
    """`nodes` from `p`, above 0.1, to `out`."""
    more = {"tenth": f32(0.1), **values}
    return above(node("Mul", "h h", "q"), node("Add", "q tenth", "p"), *nodes, **more)


def reduced(op: str, *axes: int, x: Shape = ("N", 3, 2, 4), **attributes: Any) -> Case:
    """The reduction, and something that gives the result back its batch."""
    return above(
        node("Tanh", "h", "t"),
        node(op, "t axes" if axes else "t", "r", **attributes),
        node("Mul", "r r", "out") if 0 not in axes and axes else node("Mul", "h r", "out"),
        x=x,
        **({"axes": ints(*axes)} if axes else {}),
    )


ACTIVATIONS: dict[str, Case] = {
    "Clip": above(node("Clip", "h lo hi", "out"), lo=f32(-0.5), hi=f32(0.5)),
    "Clip ReLU6": above(node("Mul", "h ten", "t"), node("Clip", "t lo hi", "out"), ten=f32(10),
                       lo=f32(0), hi=f32(6)),
    "Clip without least": above(node("Clip", "h _ hi", "out"), hi=f32(0.5)),
    "Clip without most": above(node("Clip", "h lo", "out"), lo=f32(-0.5)),
    "Clip of nothing": above(node("Clip", "h", "out")),
    "LeakyRelu": unary("LeakyRelu"),
    "LeakyRelu, steep": unary("LeakyRelu", alpha=1.5),
    "LeakyRelu, falling": unary("LeakyRelu", alpha=-0.5),
    "LeakyRelu, alpha 0": unary("LeakyRelu", alpha=0.0),
    "PRelu": above(node("PRelu", "h s", "out"), s=(4,)),
    "PRelu of channels": above(node("PRelu", "h s", "out"), x=("N", 3, 2, 4), s=(3, 1, 1)),
    "PRelu of one": above(node("PRelu", "h s", "out"), x=("N", 3, 4), s=(1,)),
    "Elu": unary("Elu"),
    "Elu alpha": unary("Elu", alpha=0.3),
    "Selu": unary("Selu"),
    "Selu alpha gamma": unary("Selu", alpha=2.0, gamma=0.5),
    "Celu": unary("Celu"),
    "Celu alpha": unary("Celu", alpha=0.4),
    "Softplus": unary("Softplus"),
    "Softsign": unary("Softsign"),
    "HardSigmoid": unary("HardSigmoid"),
    "HardSigmoid alpha beta": unary("HardSigmoid", alpha=0.7, beta=0.4),
    "HardSwish": above(node("Mul", "h ten", "t"), node("HardSwish", "t", "out"), ten=f32(10)),
    "Mish": unary("Mish"),
    "Mul by Sigmoid, Swish": above(node("Sigmoid", "h", "s"), node("Mul", "h s", "out")),
    "Gelu": unary("Gelu"),
    "Gelu tanh": unary("Gelu", approximate="tanh"),
    "Erf": unary("Erf"),
    "Erf, Gelu composed": above(
        node("Div", "h root", "d"), node("Erf", "d", "e"), node("Add", "e one", "p"),
        node("Mul", "h p", "m"), node("Mul", "m half", "out"),
        root=f32(2**0.5), one=f32(1), half=f32(0.5),
    ),
    "ThresholdedRelu": unary("ThresholdedRelu", alpha=0.4),
    "Softmax of the batch": above(node("Softmax", "h", "out", axis=0)),
    "Softmax axis -2": above(node("Softmax", "h", "out", axis=-2), x=("N", 3, 4)),
    "LogSoftmax axis 1 of 3": above(node("LogSoftmax", "h", "out", axis=1), x=("N", 3, 4)),
}  # fmt: skip

ARITHMETIC: dict[str, Case] = {
    "Sub from a constant": above(node("Sub", "one h", "out"), one=f32(1)),
    "Mul by a scale": above(node("Mul", "h s", "out"), x=("N", 3, 4), s=(3, 1)),
    "Div": positive(node("Div", "h p", "out")),
    "Div by a number": above(node("Div", "h c", "out"), c=f32(3)),
    "Div of a number": positive(node("Div", "c p", "out"), c=f32(3)),
    "Div, broadcast": above(
        node("ReduceSum", "h axes", "s"), node("Exp", "s", "e"), node("Div", "h e", "out"),
        x=("N", 3, 4), axes=ints(1),
    ),
    "Neg": above(node("Neg", "h", "out")),
    "Pow 2": above(node("Pow", "h p", "out"), p=f32(2)),
    "Pow 3": above(node("Pow", "h p", "out"), p=f32(3)),
    "Pow 1": above(node("Pow", "h p", "out"), p=f32(1)),
    "Pow 0.5": positive(node("Pow", "p e", "out"), e=f32(0.5)),
    "Pow -1": positive(node("Pow", "p e", "out"), e=f32(-1)),
    "Pow 1.7": positive(node("Pow", "p e", "out"), e=f32(1.7)),
    "Pow -0.3": positive(node("Pow", "p e", "out"), e=f32(-0.3)),
    "Pow of integers": above(node("Pow", "h p", "out"), p=np.asarray(3)),
    "Pow of several": positive(node("Pow", "p e", "out"), e=f32(0.5, 1, 2, 3)),
    "Pow of tensors": positive(node("Pow", "p h", "out")),
    "Pow, broadcast": positive(
        node("ReduceSum", "h axes", "s", keepdims=1), node("Pow", "p s", "out"), axes=ints(1)
    ),
    "Pow of a number": above(node("Pow", "two h", "out"), two=f32(2)),
    "Sqrt": positive(node("Sqrt", "p", "out")),
    "Reciprocal": positive(node("Reciprocal", "p", "out")),
    "Exp": above(node("Exp", "h", "out")),
    "Log": positive(node("Log", "p", "out")),
    "Abs": above(node("Abs", "h", "out")),
    "Sin": above(node("Sin", "h", "out")),
    "Cos": above(node("Cos", "h", "out")),
    "Max": above(node("Tanh", "h", "t"), node("Neg", "h", "n"), node("Max", "t n c", "out"),
                c=f32(0.1)),
    "Max of one": above(node("Max", "h", "out")),
    "Max, broadcast": above(
        node("ReduceSum", "h axes", "s"), node("Max", "s h", "out"), axes=ints(1), x=("N", 3, 4)
    ),
    "Min": above(node("Sin", "h", "t"), node("Neg", "h", "n"), node("Min", "t n c", "out"),
                c=f32(0.1)),
    "Sum": above(node("Tanh", "h", "t"), node("Sum", "t h t b", "out"), b=(4,)),
    "Sum of one": above(node("Sum", "h", "out")),
    "Mean": above(node("Tanh", "h", "t"), node("Mean", "t h c", "out"), c=f32(1)),
    "Where": above(
        node("Tanh", "h", "t"), node("Greater", "h c", "g"), node("Where", "g h t", "out"),
        c=f32(0.2),
    ),
    "Where, broadcast": above(
        node("ReduceSum", "h axes", "s"), node("Less", "h s", "g"), node("Where", "g h s", "out"),
        axes=ints(1), x=("N", 3, 4),
    ),
    "Where, logic": above(
        node("LessOrEqual", "h c", "a"), node("GreaterOrEqual", "h d", "b"),
        node("Equal", "h d", "e"), node("And", "a b", "ab"), node("Not", "ab", "n"),
        node("Xor", "n e", "x1"), node("Or", "x1 e", "o"), node("Where", "o h zero", "out"),
        c=f32(0.3), d=f32(-0.3), zero=f32(0),
    ),
    "Cast": above(node("Cast", "h", "d", to=11), node("Mul", "d d", "q"),
                 node("Cast", "q", "out", to=FLOAT)),
    "Cast of a truth value": above(
        node("Greater", "h c", "g"), node("Cast", "g", "m", to=FLOAT), node("Mul", "h m", "out"),
        c=f32(0),
    ),
    "CastLike": above(node("CastLike", "h c", "d"), node("Mul", "d d", "q"),
                     node("Cast", "q", "out", to=FLOAT), c=np.asarray(1.0)),
    # What no gradient passes, beside the way of one that does.
    "Mul by Sign": above(node("Sign", "h", "s"), node("Tanh", "h", "t"), node("Mul", "t s", "out")),
    "Mul by what is rounded": above(
        node("Mul", "h ten", "t"), node("Floor", "t", "f"), node("Ceil", "t", "c"),
        node("Round", "t", "r"), node("Sum", "f c r", "s"), node("Tanh", "h", "u"),
        node("Mul", "s u", "out"), ten=f32(10),
    ),
    "Mul by ArgMax": above(
        node("ArgMax", "h", "a", axis=1), node("ArgMin", "h", "i", axis=1),
        node("Sub", "a i", "d"), node("Cast", "d", "f", to=FLOAT), node("Mul", "h f", "out"),
    ),
}  # fmt: skip

_SMOOTH = ("ReduceSum", "ReduceMean", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare",
           "ReduceMax", "ReduceMin", "ReduceL1")  # fmt: skip
REDUCTIONS: dict[str, Case] = {
    **{op: reduced(op, 1, 3) for op in _SMOOTH},
    **{f"{op}, axes gone": reduced(op, -1, 1, keepdims=0) for op in _SMOOTH},
    **{f"{op} of the batch": reduced(op, 0, 2) for op in _SMOOTH},
    **{f"{op} of all": reduced(op, x=("N", 3, 4)) for op in _SMOOTH},
    **{f"{op} of all, axes gone": reduced(op, keepdims=0) for op in _SMOOTH},
    "ReduceLogSum": positive(node("ReduceLogSum", "p axes", "out"), axes=ints(1)),
    "ReduceLogSum, axes gone": positive(
        node("ReduceLogSum", "p axes", "r", keepdims=0), node("Mul", "r p", "out"), axes=ints(0)
    ),
    "ReduceSum of nothing": above(node("ReduceSum", "h", "out", noop_with_empty_axes=1)),
    "ReduceMax of nothing": above(
        node("ReduceMax", "h none", "out", noop_with_empty_axes=1), none=np.zeros(0, np.int64)
    ),
}

CASES = {**ACTIVATIONS, **ARITHMETIC, **REDUCTIONS}
# What the training build's own kernels cannot run, or run wrongly.
NO_KERNEL = ("LeakyRelu, falling", "Gelu tanh")


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    kernels = not name.startswith(NO_KERNEL)
    check(Gradients(model(*CASES[name], opset=21), task("mse"), tmp_path), kernels=kernels)


def slope_at(made: onnx.ModelProto, values: np.ndarray, tmp_path: Path) -> np.ndarray:
    """The gradient of mean((out - 0)^2) by `b`, which is added to an input of zeros."""
    gradients = Gradients(made, task("mse"), tmp_path)
    tensor = next(w for w, name in gradients.problem.weights.items() if name == "b")
    gradients.values[tensor] = values.astype(np.float32)
    examples = {n: np.zeros_like(v) for n, v in gradients.examples(2).items()}
    return gradients.lowered(examples)["b"]


def from_bias(op: str, width: int) -> onnx.ModelProto:
    """The operator, of b + x w; along axis 1 if it is a reduction."""
    axes = {"axes": ints(1)} if op.startswith("Reduce") else {}
    nodes = [
        node("MatMul", "x w", "m"),
        node("Add", "m b", "h"),
        node(op, "h axes" if axes else "h", "y"),
        node("Add", "y one", "out"),  # so that the loss has a slope also where y is 0
    ]
    values = {**weights(w=(width, width), b=(width,)), "one": f32(1), **axes}
    return model(nodes, values, ("N", width), opset=21)


FAR_OUT = np.array([-100, -30, -1, 0.5, 1, 30, 100], np.float32)


def expected_softplus(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.logaddexp(0, x), 1 / (1 + np.exp(-x))


def expected_mish(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    soft, steep = expected_softplus(x)
    t = np.tanh(soft)
    return x * t, t + x * (1 - t**2) * steep


def expected_elu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = np.exp(np.minimum(x, 0))
    return np.where(x > 0, x, low - 1), np.where(x > 0, 1, low)


def expected_sigmoid(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    y = 1 / (1 + np.exp(-x))
    return y, y * (1 - y)


def expected_softsign(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x / (1 + abs(x)), 1 / (1 + abs(x)) ** 2


def expected_gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from math import erf

    phi = np.array([(1 + erf(v / 2**0.5)) / 2 for v in x])
    return x * phi, phi + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("Softplus", expected_softplus),
        ("Mish", expected_mish),
        ("Elu", expected_elu),
        ("Celu", expected_elu),
        ("Sigmoid", expected_sigmoid),
        ("Softsign", expected_softsign),
        ("Gelu", expected_gelu),
    ],
)
def test_far_out(op: str, expected: Any, tmp_path: Path) -> None:
    found = slope_at(from_bias(op, len(FAR_OUT)), FAR_OUT, tmp_path)
    y, slope = expected(FAR_OUT.astype(np.float64))
    wanted = 2 * (y + 1) * slope / len(FAR_OUT)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("op", ["LogSoftmax", "Softmax", "ReduceLogSumExp", "Selu", "HardSwish"])
def test_far_out_is_finite(op: str, tmp_path: Path) -> None:
    found = slope_at(from_bias(op, len(FAR_OUT)), FAR_OUT, tmp_path)
    assert np.isfinite(found).all()
    assert np.abs(found).max() > 0


CORNERS: dict[str, tuple[list[onnx.NodeProto], float]] = {
    "Abs": ([node("Abs", "h", "y")], 0),
    "Sqrt": ([node("Sqrt", "h", "y")], 0),
    "Pow": ([node("Pow", "h e", "y")], 0),
    "Pow 0": ([node("Pow", "h zero", "y")], 0),
    "Relu": ([node("Relu", "h", "y")], 0),
    "LeakyRelu": ([node("LeakyRelu", "h", "y", alpha=0.25)], 0.25),
    "Elu": ([node("Elu", "h", "y", alpha=0.25)], 0.25),
    "Clip": ([node("Clip", "h zero six", "y")], 1),
    "Max": ([node("Max", "h zero", "y")], 0.5),
    "Sign": ([node("Sign", "h", "s"), node("Mul", "s h", "y")], 0),
    "ReduceL1": ([node("ReduceL1", "h axes", "y")], 0),
    "ReduceL2": ([node("ReduceL2", "h axes", "y")], 0),
    "LpNormalization": ([node("LpNormalization", "h", "y")], 0),
    "norm": (
        [node("Mul", "h h", "q"), node("ReduceSum", "q axes", "s"), node("Sqrt", "s", "y")],
        0,
    ),
}


@pytest.mark.parametrize("name", CORNERS)
def test_the_slope_at_a_corner(name: str, tmp_path: Path) -> None:
    nodes, expected = CORNERS[name]
    constants = {"zero": f32(0), "six": f32(6), "e": f32(0.5), "axes": ints(1)}
    made = model(
        [
            node("MatMul", "x w", "m"),
            node("Add", "m b", "h"),
            *nodes,
            node("Add", "y one", "out"),
        ],
        {
            **weights(w=(3, 3), b=(3,)),
            **read_by(nodes, constants),
            "one": f32(1),
        },
        ("N", 3),
        opset=21,
    )
    found = slope_at(made, np.zeros(3), tmp_path)
    np.testing.assert_allclose(found, np.full(3, 2 * expected / 3), rtol=1e-6)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp"])
def test_axes_of_older_operator_sets(op: str, opset: int, tmp_path: Path) -> None:
    made = above(node(op, "h", "r", axes=[-1], keepdims=0), node("Sin", "r", "out"), x=("N", 3, 4))
    check(Gradients(model(*made, opset=opset), task("mse"), tmp_path))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin"])
def test_a_reduction_of_nothing_runs(op: str, tmp_path: Path) -> None:
    """ONNX Runtime's own ReduceSum fails there, also when the model is only used."""
    nodes, values, x = above(node(op, "h", "out", noop_with_empty_axes=1))
    compiled(model(nodes, values, x, opset=21), tmp_path, task("mse"))
    feeds = {"x": np.eye(4, dtype=np.float32)}
    out = run(session(tmp_path / "plan" / "model.onnx"), feeds)["out"]
    np.testing.assert_allclose(out, values["w0"], rtol=1e-6)


SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=3)


@settings(max_examples=20)
@given(
    op=st.sampled_from(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Where", "PRelu"]),
    full=SHAPES,
    data=st.data(),
)
def test_broadcasting(op: str, full: list[int], data: st.DataObject, tmp_path_factory: Any) -> None:
    """A tensor of features meets a weight of any shape that repeats to its own."""
    kept = data.draw(st.integers(0, len(full)), "axes of the weight")
    shape = [data.draw(st.sampled_from([1, n])) for n in full[len(full) - kept :]]
    left = data.draw(st.booleans(), "on the left") and op != "PRelu"
    nodes = [
        node("MatMul", "x w0", "h"),
        node("Exp", "h", "e"),
        node("Add", "v zero", "u"),
        node("Exp", "u", "a"),
    ]
    pair = "a e" if left else "e a"
    if op == "Where":
        nodes.append(node("Greater", pair, "g"))
    inputs = {"Where": f"g {pair}", "PRelu": "h a"}.get(op, pair)
    nodes += [node(op, inputs, "y"), node("Sin", "y", "out")]
    values = {**weights(w0=(full[-1], full[-1]), v=shape or (1,)), "zero": f32(0)}
    made = model(nodes, values, ("N", *full), opset=21)
    spec = task("mse", model='trained = ["v"]')
    check(Gradients(made, spec, tmp_path_factory.mktemp("broadcast")), 2)


@settings(max_examples=20)
@given(
    op=st.sampled_from([*_SMOOTH, "ReduceLogSum"]),
    shape=SHAPES,
    keep=st.booleans(),
    data=st.data(),
)
def test_reductions(
    op: str, shape: list[int], keep: bool, data: st.DataObject, tmp_path_factory: Any
) -> None:
    rank = len(shape) + 1
    axes = data.draw(st.sets(st.integers(1, rank - 1), min_size=1), "axes")
    signed = [a - rank if data.draw(st.booleans()) else a for a in sorted(axes)]
    made = above(
        node("Exp", "h", "e"),
        node(op, "e axes", "r", keepdims=int(keep)),
        node("Sin", "r", "out"),
        x=("N", *shape),
        axes=ints(*signed),
    )
    check(Gradients(model(*made, opset=21), task("mse"), tmp_path_factory.mktemp("reduce")), 3)
