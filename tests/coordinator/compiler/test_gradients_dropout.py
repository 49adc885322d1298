"""Dropout: what is drawn, what is dropped, and that nothing is when the model is used."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from coordinator.compiler.errors import CompileError
from coordinator.taskfile import parse
from edge_agent.draws import drawn
from tests.coordinator.compiler.building import compiled, model, node, run, session, task, weights
from tests.coordinator.compiler.checking import Gradients, close
from tests.coordinator.compiler.stepping import start, steps
from wire.plan import Draw, parse_manifest

RATIO = {"ratio": np.float32(0.25)}
OFF = """
name = "test"
[model]
file = "model.onnx"
dropout = "off"
[loss]
kind = "mse"
[optimizer]
kind = "sgd"
learning_rate = 0.1
[training]
metrics = ["loss"]
[round]
goal = 2
"""


def dropping(
    *nodes: onnx.NodeProto, x: tuple[int | str, ...] = ("N", 4), **constants: np.ndarray
) -> onnx.ModelProto:
    """`nodes` go from `h`, a dense layer over x, to `out`."""
    width = int(x[-1])
    start = node("MatMul", "x w0", "h", "under")
    return model([start, *nodes], weights(w0=(width, width)) | constants, x)


PLAIN = dropping(node("Dropout", "h ratio", "out", "drop"), **RATIO)

CASES: dict[str, onnx.ModelProto] = {
    "Dropout": PLAIN,
    "Dropout with ONNX's ratio": dropping(node("Dropout", "h", "out")),
    "Dropout in training mode": dropping(
        node("Dropout", "h ratio yes", "out"), yes=np.array(True), **RATIO
    ),
    "Dropout not in training mode": dropping(
        node("Dropout", "h ratio no", "out"), no=np.array(False), **RATIO
    ),
    "Dropout of nothing": dropping(node("Dropout", "h ratio", "out"), ratio=np.float32(0)),
    "Dropout, its mask used": dropping(
        node("Dropout", "h ratio", "d mask"),
        node("Cast", "mask", "m", to=1),
        node("Mul", "d d", "s"),
        node("Add", "s m", "out"),
        **RATIO,
    ),
    "Dropout twice": dropping(
        node("Dropout", "h ratio", "d"),
        node("Tanh", "d", "t"),
        node("Dropout", "t", "e"),
        node("Add", "e h", "out"),
        **RATIO,
    ),
    "Dropout of images": dropping(node("Dropout", "h ratio", "out"), x=("N", 2, 3, 4), **RATIO),
    "Dropout, sequence first": dropping(
        node("Transpose", "h", "t", perm=[1, 0, 2]),
        node("Dropout", "t ratio", "d"),
        node("Transpose", "d", "out", perm=[1, 0, 2]),
        x=("N", 3, 4),
        **RATIO,
    ),
    "Dropout of rows": dropping(
        node("Reshape", "h rows", "t"),
        node("Dropout", "t ratio", "d"),
        node("Reshape", "d back", "out"),
        x=("N", 3, 4),
        rows=np.array([-1, 4]),
        back=np.array([-1, 3, 4]),
        **RATIO,
    ),
    "Dropout of rows within": dropping(
        node("Transpose", "h", "t", perm=[3, 0, 1, 2]),
        node("Reshape", "t rows", "r"),
        node("Dropout", "r ratio", "d"),
        node("Reshape", "d back", "b"),
        node("Transpose", "b", "out", perm=[1, 2, 3, 0]),
        x=("N", 3, 2, 4),
        rows=np.array([4, -1, 2]),
        back=np.array([4, -1, 3, 2]),
        **RATIO,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, tmp_path: Path) -> None:
    gradients = Gradients(CASES[name], task("mse"), tmp_path)
    examples = gradients.examples(3)
    lowered = gradients.lowered(examples)
    assert any(np.abs(value).max() > 1e-4 for value in lowered.values())
    gradients.check_differences(examples, lowered)
    expected = gradients.training_build(examples)
    for name, value in lowered.items():
        close(value, expected[name])


def test_what_is_drawn_is_told(tmp_path: Path) -> None:
    plan = compiled(CASES["Dropout twice"], tmp_path, task("mse"))
    expected = (Draw(name="draw/1", shape=(4,)), Draw(name="draw/2", shape=(4,)))
    assert plan.manifest.drawn == expected
    assert parse_manifest(plan.manifest.to_bytes()) == plan.manifest
    taken = {i.name for i in session(tmp_path / "plan" / "train.onnx").get_inputs()}
    assert {"draw/1", "draw/2"} <= taken


def test_a_name_that_is_taken_is_left(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x draw/1", "h"), node("Dropout", "h", "out")]
    values = {"draw/1": weights(w=(4, 4))["w"]}
    plan = compiled(model(nodes, values), tmp_path, task("mse"))
    assert [p.name for p in plan.manifest.parameters] == ["draw/1"]
    assert [d.name for d in plan.manifest.drawn] == ["draw/1_2"]


def test_half_of_the_numbers_pass_and_weigh_twice(tmp_path: Path) -> None:
    """The loss of one step is that of the mean square of what passed, with the mask drawn."""
    made = dropping(node("Dropout", "h ratio", "out"), ratio=np.float32(0.5))
    plan = compiled(made, tmp_path, task("mse"))
    x = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    numbers = drawn(plan.manifest.drawn, 3, 0, 6)
    now = start(plan)
    feeds = {"x": x, "target": np.zeros((6, 4), np.float32), **numbers, **now}
    found = run(
        session(tmp_path / "plan" / "train.onnx"), feeds | {"learning_rate": np.float32(0)}
    )["loss"]
    passed = np.where(numbers["draw/1"] >= 0.5, 2 * (x @ now["w0"]), 0)
    np.testing.assert_allclose(found, (passed**2).mean(), rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_dropped_when_the_model_is_used(name: str, tmp_path: Path) -> None:
    plan = compiled(CASES[name], tmp_path, task("mse"))
    for file in ("evaluate.onnx", "model.onnx"):
        found = onnx.load_from_string(plan.files[file])
        assert "Dropout" not in {n.op_type for n in found.graph.node}
        assert not {i.name for i in found.graph.input if i.name.startswith("draw")}
    shape = next(i.shape for i in plan.manifest.inputs if i.name == "x")
    x = np.random.default_rng(1).normal(size=(3, *shape)).astype(np.float32)
    out = run(session(tmp_path / "plan" / "model.onnx"), {"x": x} | start(plan))["out"]
    h = x @ start(plan)["w0"]
    expected = {"Dropout, its mask used": h * h + 1, "Dropout twice": np.tanh(h) + h}.get(name, h)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_without_dropout_a_plan_is_that_of_the_model_without(tmp_path: Path) -> None:
    plan = compiled(PLAIN, tmp_path, parse(OFF))
    without = compiled(dropping(node("Identity", "h", "out")), tmp_path, task("mse"))
    assert plan == without


def test_a_plan_with_dropout_learns(tmp_path: Path) -> None:
    nodes = [
        node("Gemm", "x w1 b1", "h", transB=1),
        node("Relu", "h", "r"),
        node("Dropout", "r ratio", "d"),
        node("Gemm", "d w2 b2", "out", transB=1),
    ]
    values = weights(w1=(16, 4), b1=(16,), w2=(3, 16), b2=(3,)) | RATIO
    plan = compiled(model(nodes, values), tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)).astype(np.float32)
    feeds = {"x": x, "label": np.argmax(x[:, :3], axis=1)}
    losses = [float(steps(plan, tmp_path, feeds, 0.5, n)["loss"]) for n in (1, 80)]
    assert losses[1] < 0.5 * losses[0]


BAD_RATIOS = {"above": np.float32(1.5), "one": np.float32(1), "below": np.float32(-0.1)}


@pytest.mark.parametrize("ratio", BAD_RATIOS.values(), ids=BAD_RATIOS)
def test_a_ratio_that_is_none_is_refused(ratio: np.float32, tmp_path: Path) -> None:
    made = dropping(node("Dropout", "h ratio", "out", "drop"), ratio=ratio)
    with pytest.raises(CompileError, match=r"ratio of Dropout \(node 'drop'\).*dropout = \"off\""):
        compiled(made, tmp_path, task("mse"))


@pytest.mark.parametrize(
    "random",
    [
        [node("Bernoulli", "h", "out", "r")],
        [node("RandomNormalLike", "h", "r", "r"), node("Add", "h r", "out")],
        [node("RandomUniformLike", "h", "r", "r"), node("Mul", "h r", "out")],
    ],
    ids=["Bernoulli", "RandomNormalLike", "RandomUniformLike"],
)
def test_other_random_numbers_are_refused(random: list[onnx.NodeProto], tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"\(node 'r'\) takes random numbers"):
        compiled(dropping(*random), tmp_path, task("mse"))


def test_two_random_numbers_of_an_output_beside_stay_two(tmp_path: Path) -> None:
    """Alike as they are written, and yet not the same: `model.onnx` draws both."""
    nodes = [
        node("MatMul", "x w", "out"),
        node("RandomNormalLike", "x", "a"),
        node("RandomNormalLike", "x", "b"),
        node("Sub", "a b", "beside"),
    ]
    made = model(nodes, weights(w=(4, 3)), outputs=("out", "beside"))
    compiled(made, tmp_path, task("mse", more='output = "out"'))
    x = np.ones((5, 4), np.float32)
    found = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})
    assert np.abs(found["beside"]).min() > 0
