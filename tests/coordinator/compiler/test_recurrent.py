"""What a recurrent layer may be given, what is refused and why, and how large its graph is."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
import pytest

from coordinator.compiler.errors import CompileError
from tests.coordinator.compiler.building import FLOAT, compiled, model, node, run, session, weights
from tests.coordinator.compiler.stepping import start

STEPS, INPUTS, HIDDEN = 5, 3, 4


def classifier(
    op: str = "LSTM",
    before: tuple[onnx.NodeProto, ...] = (),
    rest: str = "",
    constants: dict[str, Any] | None = None,
    x: tuple[int | str, ...] = ("N", STEPS, INPUTS),
    batch_first: bool = True,
    **attributes: Any,
) -> onnx.ModelProto:
    """A classifier of the layer's last state. `rest` are its inputs after the bias."""
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[op]
    values = weights(
        w=(1, gates * HIDDEN, INPUTS), r=(1, gates * HIDDEN, HIDDEN), b=(1, 2 * gates * HIDDEN),
        v=(HIDDEN, 2),
    )  # fmt: skip
    nodes = [
        *before,
        *([node("Transpose", "x", "t", perm=[1, 0, 2])] if batch_first else []),
        node(op, f"{'t' if batch_first else 'x'} w r b {rest}", "_ h", "rec",
             **{"hidden_size": HIDDEN, **attributes}),
        node("Squeeze", "h zero", "s"),
        node("MatMul", "s v", "out"),
    ]  # fmt: skip
    return model(nodes, values | {"zero": np.array([0])} | (constants or {}), x)


def batch(size: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(size, STEPS, INPUTS)).astype(np.float32)
    return {"x": x, "label": (x.sum((1, 2)) > 0).astype(np.int64)}


def trained(plan: Any, folder: Path, feeds: dict[str, np.ndarray], count: int) -> list[float]:
    """The losses of so many steps."""
    made, now, losses = session(folder / "plan" / "train.onnx"), start(plan), []
    for _ in range(count):
        found = run(made, {**feeds, **now, "learning_rate": np.float32(0.5)})
        now = {n.removeprefix("next/"): v for n, v in found.items() if n != "loss"}
        losses.append(float(found["loss"]))
    return losses


@pytest.mark.parametrize("op", ["RNN", "LSTM", "GRU"])
def test_loss_falls_and_the_weights_keep_their_form(op: str, tmp_path: Path) -> None:
    plan = compiled(classifier(op), tmp_path)
    gates = {"RNN": 1, "LSTM": 4, "GRU": 3}[op]
    assert {p.name: p.shape for p in plan.manifest.parameters} == {
        "w": (1, gates * HIDDEN, INPUTS),
        "r": (1, gates * HIDDEN, HIDDEN),
        "b": (1, 2 * gates * HIDDEN),
        "v": (HIDDEN, 2),
    }
    kept = onnx.load(tmp_path / "plan" / "model.onnx", load_external_data=False)
    assert op in {n.op_type for n in kept.graph.node}
    losses = trained(plan, tmp_path, batch(), 40)
    assert losses[-1] < 0.5 * losses[0]


EXPORTED_ZEROS = {
    "of the batch's length": (
        node("Shape", "x", "n", start=0, end=1),
        node("Concat", "one n width", "shape", axis=0),
        node("ConstantOfShape", "shape", "h0"),
    ),
    "expanded": (
        node("Shape", "x", "n", start=0, end=1),
        node("Concat", "one n width", "shape", axis=0),
        node("Expand", "nought shape", "h0"),
    ),
}
NUMBERS = {"one": np.array([1]), "width": np.array([HIDDEN]), "nought": np.float32(0)}


@pytest.mark.parametrize("kind", EXPORTED_ZEROS)
def test_a_state_of_zeros_is_none(kind: str, tmp_path: Path) -> None:
    given = classifier(before=EXPORTED_ZEROS[kind], rest="_ h0 h0", constants=NUMBERS)
    assert compiled(given, tmp_path).files == compiled(classifier(), tmp_path).files


def test_zeros_for_one_example_serve_a_batch(tmp_path: Path) -> None:
    """So torch exports a model without a dynamic batch."""
    zeros = {"h0": np.zeros((1, 1, HIDDEN), np.float32)}
    fixed = (1, STEPS, INPUTS)
    given = classifier(rest="_ h0 h0", constants=zeros, x=fixed)
    plan = compiled(given, tmp_path)
    assert trained(plan, tmp_path, batch(), 1)
    feeds = batch() | start(plan)
    out = run(session(tmp_path / "plan" / "model.onnx"), feeds)["out"]
    assert out.shape == (6, 2)


def test_lengths_that_are_all_the_sequence_s_are_left_out(tmp_path: Path) -> None:
    before = (
        node("Shape", "x", "n", start=0, end=1),
        node("Expand", "steps n", "lens"),
    )
    given = classifier(before=before, rest="lens", constants={"steps": np.int32([STEPS])})
    same = compiled(classifier(), tmp_path).files["train.onnx"]
    assert compiled(given, tmp_path).files["train.onnx"] == same


REFUSED: dict[str, tuple[onnx.ModelProto, str]] = {
    "clip": (classifier(clip=3.0), "without clip"),
    "coupled gates": (classifier(input_forget=1), "input_forget"),
    "activation": (
        classifier("GRU", activations=["Sigmoid", "Softplus"]),
        r"GRU \(node 'rec'\) has the activation 'softplus'",
    ),
    "too few activations": (classifier(activations=["Sigmoid"]), "takes 3 a direction"),
    "lengths": (
        classifier(rest="lens", constants={"lens": np.int32([3])}),
        "sequence_lens",
    ),
    "too long": (classifier(x=("N", 513, INPUTS)), "513 steps; at most 512"),
    "sequence first": (
        classifier(batch_first=False, x=("T", 2, INPUTS)),
        "batch_first=True",
    ),
    "sequence of any length": (classifier(x=("N", "T", INPUTS)), "fixed"),
    "state for three": (
        classifier(rest="_ h0", constants={"h0": np.ones((1, 3, HIDDEN), np.float32)}),
        "a state for 3 examples",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    proto, message = REFUSED[name]
    with pytest.raises(CompileError, match=message):
        compiled(proto, tmp_path)


def test_a_sequence_that_varies_within_the_model(tmp_path: Path) -> None:
    """As long as the batch is large: nobody wants that, but it must not crash."""
    before = (node("Transpose", "x", "u", perm=[1, 0, 2]),)
    nodes = [*before, node("LSTM", "u w r", "_ h", "rec", hidden_size=2, layout=1),
             node("MatMul", "h v", "m"), node("Squeeze", "m one", "out")]  # fmt: skip
    values = weights(w=(1, 8, 3), r=(1, 8, 2), v=(2, 2)) | {"one": np.array([1])}
    given = {"x": (FLOAT, ("N", 4, 3))}
    with pytest.raises(CompileError, match="batch"):
        compiled(model(nodes, values, inputs=given), tmp_path)


@pytest.mark.parametrize(("op", "nodes"), [("RNN", 12), ("GRU", 29), ("LSTM", 31)])
def test_few_nodes_a_step(op: str, nodes: int, tmp_path: Path) -> None:
    """A device loads them all. Twice the steps are twice the nodes and not four times the time."""
    counts = []
    for steps in (20, 40):
        plan = compiled(classifier(op, x=("N", steps, INPUTS)), tmp_path)
        counts.append(len(onnx.load_from_string(plan.files["train.onnx"]).graph.node))
    assert counts[1] - counts[0] <= 20 * nodes


def calls(work: Callable[[], object]) -> int:
    """Calls of Python functions: time, but the same on a busy machine."""
    found = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal found
        found += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def test_twice_the_steps_are_twice_the_work(tmp_path: Path) -> None:
    """Not four times: a hundred steps must compile in seconds."""
    few, many = (classifier(x=("N", steps, INPUTS)) for steps in (30, 60))
    compiled(few, tmp_path)
    assert calls(lambda: compiled(many, tmp_path)) < 2.2 * calls(lambda: compiled(few, tmp_path))


def test_sequences_of_sequences(tmp_path: Path) -> None:
    """Each example holds two sequences, which the layer reads as if they were examples."""
    before = (node("Reshape", "z one_each", "x"),)
    made = classifier(constants={"one_each": np.array([-1, STEPS, INPUTS])}, before=before)
    made.graph.input[0].CopyFrom(
        onnx.helper.make_tensor_value_info("z", FLOAT, ["N", 2, STEPS, INPUTS])
    )
    made.graph.node[-1].output[0] = "each"
    made.graph.node.append(node("Reshape", "each both", "out"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 4]), "both"))
    del made.graph.output[0].type.tensor_type.shape.dim[:]
    for length in ("N", 4):
        dim = made.graph.output[0].type.tensor_type.shape.dim.add()
        setattr(dim, "dim_param" if length == "N" else "dim_value", length)
    del made.graph.value_info[:]
    plan = compiled(made, tmp_path)
    z = np.random.default_rng(1).normal(size=(8, 2, STEPS, INPUTS)).astype(np.float32)
    label = 2 * (z[:, 0].sum((1, 2)) > 0) + (z[:, 1].sum((1, 2)) > 0)
    losses = trained(plan, tmp_path, {"z": z, "label": label.astype(np.int64)}, 60)
    assert losses[-1] < 0.7 * losses[0]


def test_the_batch_is_known_throughout(tmp_path: Path) -> None:
    """Else ONNX Runtime takes minutes to plan the memory of a graph with so many nodes."""
    plan = compiled(classifier(), tmp_path)
    inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(plan.files["train.onnx"]))
    types = [info.type.tensor_type for info in inferred.graph.value_info]
    varying = [d.dim_param for t in types for d in t.shape.dim if not d.HasField("dim_value")]
    assert varying.count("batch") > 50
    assert len(varying) - varying.count("batch") <= 4  # all steps' rows as one, in products


def test_a_long_sequence_loads(tmp_path: Path) -> None:
    """Its cuts are a list of over a thousand bytes, which must not be in another file."""
    plan = compiled(classifier("GRU", x=("N", 150, INPUTS)), tmp_path)
    assert "frozen.bin" not in plan.files
    assert session(tmp_path / "plan" / "train.onnx")
