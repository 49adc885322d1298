"""Recurrent layers, unrolled: gradients, and the same values as the operators themselves have."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.compiler import lower
from tests.coordinator.compiler.building import compiled, model, node, run, session, task, weights
from tests.coordinator.compiler.checking import Gradients, close
from tests.coordinator.compiler.stepping import start

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
STEPS, INPUTS, HIDDEN = 4, 3, 2


def recurrent(
    op: str,
    outputs: str = "y",
    *,
    direction: str = "forward",
    bias: bool = True,
    states: bool = False,
    peepholes: bool = False,
    steps: int = STEPS,
    layout: int = 0,
    **attributes: Any,
) -> onnx.ModelProto:
    """A recurrent layer over a dense one, so that the gradient by its input is seen too; `outputs`
    are those that the model's output is made of, `y h c`."""
    count, gates, n = 2 if direction == "bidirectional" else 1, GATES[op], HIDDEN
    shapes = {"w": (count, gates * n, INPUTS), "r": (count, gates * n, n), "w0": (INPUTS, INPUTS)}
    nodes, taken = [node("MatMul", "x w0", "d", "under")], ["d", "w", "r", "_"]
    if not layout:
        nodes.append(node("Transpose", "d", "t", perm=[1, 0, 2]))
        taken[0] = "t"
    if bias:
        shapes["b"], taken[3] = (count, 2 * gates * n), "b"
    if states:  # made of the same input, by weights of their own
        taken.append("_")
        for s in ("h0", "c0")[: 2 if op == "LSTM" else 1]:
            shapes[f"w_{s}"] = (steps * INPUTS, count * n)
            perm = [0, 1, 2] if layout else [1, 0, 2]
            nodes += [
                node("Flatten", "x", f"f_{s}"),
                node("MatMul", f"f_{s} w_{s}", f"m_{s}"),
                node("Reshape", f"m_{s} shape", f"s_{s}"),
                node("Transpose", f"s_{s}", s, perm=perm),
            ]
            taken.append(s)
    if peepholes:
        shapes["p"] = (count, 3 * n)
        taken += ["_"] * (7 - len(taken)) + ["p"]
    made = [f"{o}_" if o in outputs.split() else "_" for o in "yhc"[: 3 if op == "LSTM" else 2]]
    if layout:
        attributes["layout"] = 1
    nodes.append(
        node(op, " ".join(taken), " ".join(made), "rec", hidden_size=n, direction=direction,
             **attributes)
    )  # fmt: skip
    flat = []
    for o in outputs.split():
        rank = [2, 0, 1, 3] if o == "y" else [1, 0, 2]
        nodes += [
            node("Transpose", f"{o}_", f"{o}_t", perm=sorted(rank) if layout else rank),
            node("Flatten", f"{o}_t", f"{o}_f"),
            node("MatMul", f"{o}_f v_{o}", f"{o}_o"),
        ]
        shapes[f"v_{o}"] = (count * n * (steps if o == "y" else 1), 2)
        flat.append(f"{o}_o")
    if len(flat) == 1:
        flat.append("zero")
    while len(flat) > 2:
        nodes.append(node("Add", f"{flat[0]} {flat[1]}", f"sum{len(flat)}"))
        flat = [f"sum{len(flat)}", *flat[2:]]
    nodes.append(node("Add", f"{flat[0]} {flat[1]}", "out"))
    constants: dict[str, Any] = weights(**shapes)
    if "zero" in flat:
        constants["zero"] = np.float32(0)
    if states:
        constants["shape"] = np.array([-1, count, n])
    return model(nodes, constants, ("N", steps, INPUTS))


CASES: dict[str, onnx.ModelProto] = {
    "RNN": recurrent("RNN"),
    "RNN, last state alone": recurrent("RNN", "h"),
    "RNN reverse, no bias": recurrent("RNN", "y h", direction="reverse", bias=False),
    "RNN bidirectional": recurrent("RNN", "y h", direction="bidirectional", states=True),
    "LSTM": recurrent("LSTM"),
    "LSTM, every output": recurrent("LSTM", "y h c"),
    "LSTM, last cell alone": recurrent("LSTM", "c"),
    "LSTM, last state alone": recurrent("LSTM", "h"),
    "LSTM reverse": recurrent("LSTM", direction="reverse"),
    "LSTM bidirectional": recurrent("LSTM", "y h c", direction="bidirectional"),
    "LSTM, states": recurrent("LSTM", "y c", states=True),
    "LSTM bidirectional, states": recurrent("LSTM", direction="bidirectional", states=True),
    "LSTM without bias": recurrent("LSTM", bias=False),
    "LSTM, peepholes": recurrent("LSTM", peepholes=True),
    "LSTM, peepholes, last cell alone": recurrent("LSTM", "c", peepholes=True),
    "LSTM bidirectional, peepholes, states": recurrent(
        "LSTM", "y h c", direction="bidirectional", peepholes=True, states=True
    ),
    "LSTM, batch first": recurrent("LSTM", "y h c", layout=1, direction="bidirectional",
                                   states=True),
    "GRU": recurrent("GRU"),
    "GRU, last state alone": recurrent("GRU", "h"),
    "GRU, one step": recurrent("GRU", steps=1, states=True),
    "GRU reverse": recurrent("GRU", direction="reverse"),
    "GRU bidirectional, states": recurrent("GRU", "y h", direction="bidirectional", states=True),
    "GRU without bias": recurrent("GRU", bias=False),
    "GRU, linear before reset": recurrent("GRU", linear_before_reset=1),
    "GRU bidirectional, linear before reset": recurrent(
        "GRU", "y h", direction="bidirectional", states=True, linear_before_reset=1
    ),
    "GRU, linear before reset, no bias": recurrent("GRU", linear_before_reset=1, bias=False),
    "GRU, batch first": recurrent("GRU", "y h", layout=1, direction="bidirectional"),
}  # fmt: skip

OTHER_ACTIVATIONS: dict[str, onnx.ModelProto] = {
    "RNN of Relu": recurrent("RNN", activations=["Relu"]),
    "RNN of Affine": recurrent(
        "RNN", activations=["Affine"], activation_alpha=[0.5], activation_beta=[0.1]
    ),
    "RNN, one for each direction": recurrent(
        "RNN", direction="bidirectional", activations=["Relu", "Sigmoid"]
    ),
    "LSTM of Relu": recurrent("LSTM", "y c", activations=["Sigmoid", "Relu", "Tanh"]),
    "LSTM of ScaledTanh": recurrent(
        "LSTM",
        activations=["Sigmoid", "ScaledTanh", "ScaledTanh"],
        activation_alpha=[0.5, 1.5],
        activation_beta=[0.7, 0.9],
    ),
    "GRU of other gates": recurrent(
        "GRU", activations=["Tanh", "Relu"], linear_before_reset=1
    ),
}  # fmt: skip


def check(proto: onnx.ModelProto, tmp_path: Path, batch: int = 3, known: bool = True) -> None:
    """Gradients by three ways; `known` says whether the reference knows the operator's like."""
    gradients = Gradients(proto, task("mse"), tmp_path)
    examples = gradients.examples(batch)
    lowered = gradients.lowered(examples)
    assert all(np.abs(value).max() > 1e-6 for value in lowered.values())
    if not known:
        problem = gradients.problem
        lower.expand(problem.graph, problem.inputs, problem.weights)
    gradients.check_differences(examples, lowered)
    expected = gradients.training_build(examples)
    for name, value in lowered.items():
        close(value, expected[name])


def same_values(proto: onnx.ModelProto, tmp_path: Path, batch: int = 3) -> None:
    """The unrolled layer's loss is that of the runtime's own operator."""
    plan = compiled(proto, tmp_path, task("mse", metrics=["loss"]))
    folder = tmp_path / "plan"
    assert {"RNN", "LSTM", "GRU"} & {n.op_type for n in onnx.load(folder / "model.onnx").graph.node}
    rng = np.random.default_rng(5)
    shapes = {i.name: (batch, *i.shape) for i in plan.manifest.inputs}
    feeds = {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}
    feeds |= start(plan) | {"learning_rate": np.float32(0.1)}
    unrolled = run(session(folder / "train.onnx"), feeds)["loss"]
    operator = run(session(folder / "evaluate.onnx"), feeds)["metric/loss"] / batch
    np.testing.assert_allclose(unrolled, operator, rtol=1e-5)
    run(session(folder / "model.onnx"), feeds)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, tmp_path: Path) -> None:
    check(CASES[name], tmp_path)


@pytest.mark.parametrize("name", OTHER_ACTIVATIONS)
def test_gradients_of_other_activations(name: str, tmp_path: Path) -> None:
    check(OTHER_ACTIVATIONS[name], tmp_path, known=False)


@pytest.mark.parametrize("name", [*CASES, *OTHER_ACTIVATIONS])
def test_values(name: str, tmp_path: Path) -> None:
    same_values((CASES | OTHER_ACTIVATIONS)[name], tmp_path)


@settings(max_examples=12)
@given(data=st.data())
def test_any_layer(data: st.DataObject, tmp_path_factory: Any) -> None:
    op = data.draw(st.sampled_from(sorted(GATES)), "op")
    outputs = st.lists(
        st.sampled_from("yhc" if op == "LSTM" else "yh"), min_size=1, max_size=3, unique=True
    )
    more: dict[str, Any] = {}
    if op == "GRU":
        more["linear_before_reset"] = data.draw(st.integers(0, 1), "linear_before_reset")
    if op == "LSTM":
        more["peepholes"] = data.draw(st.booleans(), "peepholes")
    made = recurrent(
        op,
        " ".join(data.draw(outputs, "outputs")),
        direction=data.draw(st.sampled_from(["forward", "reverse", "bidirectional"]), "direction"),
        bias=data.draw(st.booleans(), "bias"),
        states=data.draw(st.booleans(), "states"),
        steps=data.draw(st.integers(2, 5), "steps"),
        layout=data.draw(st.integers(0, 1), "layout"),
        **more,
    )
    folder = tmp_path_factory.mktemp("recurrent")
    batch = data.draw(st.integers(1, 3), "batch")
    check(made, folder, batch)
    same_values(made, folder, batch)
