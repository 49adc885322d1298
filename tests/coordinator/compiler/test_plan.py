"""What a compiled plan is: its names, its files, and what a stock runtime makes of them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from coordinator.compiler.compile import compile_task
from coordinator.compiler.errors import CompileError
from coordinator.compiler.folder import read_plan_dir
from tests.coordinator.compiler.building import (
    FLOAT,
    compiled,
    dense,
    model,
    node,
    run,
    session,
    task,
    weights,
)
from tests.coordinator.compiler.stepping import Arrays, examples, start, steps
from wire import checkpoint
from wire.plan import parse_manifest

GRAPHS = ("train.onnx", "evaluate.onnx", "model.onnx")


def batch(size: int = 5, seed: int = 3) -> Arrays:
    return dict(examples(size, seed=seed).arrays)


def forward(w: Arrays, x: np.ndarray) -> np.ndarray:
    hidden = np.maximum(x @ w["w1"].T + w["b1"], 0)
    return hidden @ w["w2"].T + w["b2"]


def gradients(w: Arrays, feeds: Arrays) -> tuple[float, Arrays]:
    """The mean cross-entropy of `dense` and its gradients, in double precision."""
    x, label = feeds["x"].astype(float), feeds["label"]
    rows = np.arange(len(x))
    hidden = np.maximum(x @ w["w1"].T + w["b1"], 0)
    logits = hidden @ w["w2"].T + w["b2"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    loss = -np.log(p[rows, label]).mean()
    p[rows, label] -= 1
    p /= len(x)
    back = (p @ w["w2"]) * (hidden > 0)
    return loss, {"w2": p.T @ hidden, "b2": p.sum(0), "w1": back.T @ x, "b1": back.sum(0)}


def test_manifest_and_graphs_agree(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(metrics=["loss", "accuracy"]))
    m = plan.manifest
    assert parse_manifest(m.to_bytes()) == m
    assert [(i.name, i.dtype, i.shape, i.classes) for i in m.inputs] == [
        ("x", "float32", (4,), None),
        ("label", "int64", (), 3),
    ]
    assert [p.name for p in m.parameters] == ["w1", "b1", "w2", "b2"]
    assert [(x.name, x.better) for x in m.metrics] == [("loss", "lower"), ("accuracy", "higher")]
    train = session(tmp_path / "plan" / "train.onnx")
    assert [i.name for i in train.get_inputs()] == [
        "x", "label", "w1", "b1", "w2", "b2", "learning_rate",
    ]  # fmt: skip
    assert [o.name for o in train.get_outputs()] == [
        "loss", "next/w1", "next/b1", "next/w2", "next/b2",
    ]  # fmt: skip
    evaluate = session(tmp_path / "plan" / "evaluate.onnx")
    assert [o.name for o in evaluate.get_outputs()] == ["metric/loss", "metric/accuracy"]


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_standard_and_lean(name: str, tmp_path: Path) -> None:
    compiled(dense(), tmp_path)
    made = onnx.load(tmp_path / "plan" / name)
    onnx.checker.check_model(tmp_path / "plan" / name, full_check=True)
    assert [(o.domain, o.version) for o in made.opset_import] == [("", 21)]
    assert made.ir_version <= 10
    assert {n.domain for n in made.graph.node} == {""}
    assert "Identity" not in {n.op_type for n in made.graph.node}
    read = {i for n in made.graph.node for i in n.input} | {o.name for o in made.graph.output}
    assert {o for n in made.graph.node for o in n.output} <= read


def test_same_task_same_bytes(tmp_path: Path) -> None:
    plans = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        plans.append(compiled(dense(), tmp_path / name))
    assert plans[0] == plans[1]


def test_plan_folder_reads_back(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    assert read_plan_dir(tmp_path / "plan") == plan
    (tmp_path / "plan" / "train.onnx").write_bytes(b"other")
    with pytest.raises(CompileError, match="not a whole plan"):
        read_plan_dir(tmp_path / "plan")
    with pytest.raises(CompileError, match="not a compiled plan"):
        read_plan_dir(tmp_path)


@pytest.mark.parametrize("size", [1, 5, 8])
def test_evaluate_sums_over_the_batch(size: int, tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(metrics=["loss", "accuracy"]))
    feeds, w = batch(size), start(plan)
    found = run(session(tmp_path / "plan" / "evaluate.onnx"), {**feeds, **w})
    logits = forward(w, feeds["x"])
    assert found["metric/accuracy"] == (logits.argmax(1) == feeds["label"]).sum()
    assert found["metric/loss"] == pytest.approx(gradients(w, feeds)[0] * size, rel=1e-5)


def test_rmse_is_the_root_of_the_mean_over_examples(tmp_path: Path) -> None:
    plan = compiled(dense(classes=2), tmp_path, task("mse", metrics=["loss", "rmse"]))
    w, x = start(plan), batch(6)["x"]
    target = np.ones((6, 2), np.float32)
    found = run(session(tmp_path / "plan" / "evaluate.onnx"), {"x": x, "target": target, **w})
    mean = ((forward(w, x) - target) ** 2).mean()
    (loss, rmse) = plan.manifest.metrics
    assert loss.value(float(found["metric/loss"]), 6) == pytest.approx(mean, rel=1e-5)
    assert rmse.value(float(found["metric/rmse"]), 6) == pytest.approx(np.sqrt(mean), rel=1e-5)


@pytest.mark.parametrize("mu", [0.0, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd(momentum: float, mu: float, tmp_path: Path) -> None:
    optimizer = f'kind = "sgd"\nlearning_rate = 0.3\nmomentum = {momentum}'
    plan = compiled(dense(), tmp_path, task(optimizer=optimizer, proximal=mu))
    assert len(plan.manifest.state) == (4 if momentum else 0)
    feeds = batch()
    found = steps(plan, tmp_path, feeds, 0.3, 6)
    w = {p.name: start(plan)[p.name].astype(float) for p in plan.manifest.parameters}
    base = dict(w)
    v = {n: np.zeros_like(a) for n, a in w.items()}
    for _ in range(6):
        loss, g = gradients(w, feeds)
        for n in w:
            v[n] = momentum * v[n] + g[n] + mu * (w[n] - base[n])
            w[n] = w[n] - 0.3 * v[n]
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    for n, value in w.items():
        np.testing.assert_allclose(found[n], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mu", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw(decay: float, mu: float, tmp_path: Path) -> None:
    optimizer = f'kind = "adamw"\nlearning_rate = 0.01\nweight_decay = {decay}'
    plan = compiled(dense(), tmp_path, task(optimizer=optimizer, proximal=mu))
    assert [(s.name, s.shape) for s in plan.manifest.state] == [
        ("step", ()),
        ("first_moment/small", (43,)),  # all weights are small: they are one vector here
        ("second_moment/small", (43,)),
    ]
    feeds = batch()
    found = steps(plan, tmp_path, feeds, 0.01, 20)
    w = {p.name: start(plan)[p.name].astype(float) for p in plan.manifest.parameters}
    base = dict(w)
    m, v = ({n: np.zeros_like(a) for n, a in w.items()} for _ in range(2))
    for t in range(1, 21):
        _, g = gradients(w, feeds)
        for n in w:
            g[n] = g[n] + mu * (w[n] - base[n])
            m[n] = 0.9 * m[n] + 0.1 * g[n]
            v[n] = 0.999 * v[n] + 0.001 * g[n] ** 2
            right = m[n] / (1 - 0.9**t) / (np.sqrt(v[n] / (1 - 0.999**t)) + 1e-8)
            w[n] = w[n] - 0.01 * (right + decay * w[n])
    assert found["step"] == 20
    for n, value in w.items():
        np.testing.assert_allclose(found[n], value, rtol=2e-4, atol=2e-5)


def test_frozen_weights_stay(tmp_path: Path) -> None:
    plan = compiled(dense(hidden=80), tmp_path, task(frozen=["w1", "b*"]))
    assert [p.name for p in plan.manifest.parameters] == ["w2"]
    # w1, 80 x 4 floats, is large enough to lie outside the graphs; the biases are not.
    values = weights(w1=(80, 4), b1=(80,), w2=(3, 80), b2=(3,))
    assert plan.files["frozen.bin"] == values["w1"].tobytes()
    feeds = batch()
    found = steps(plan, tmp_path, feeds, 0.5, 3)
    w = {n: a.astype(float) for n, a in values.items()}
    for _ in range(3):
        loss, g = gradients(w, feeds)
        w["w2"] = w["w2"] - 0.5 * g["w2"]
    np.testing.assert_allclose(found["w2"], w["w2"], rtol=1e-5, atol=1e-6)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    out = run(session(tmp_path / "plan" / "model.onnx"), feeds)["out"]
    np.testing.assert_allclose(out, forward(values, feeds["x"]), rtol=1e-5, atol=1e-6)


def test_a_task_s_tolerance_is_in_the_manifest(tmp_path: Path) -> None:
    tolerant = compiled(dense(), tmp_path, task(rest="[keep]\ntolerance = 0.25"))
    assert tolerant.manifest.may_be_worse_by == 0.25
    assert compiled(dense(), tmp_path, task()).manifest.may_be_worse_by == 0
    strict = compiled(dense(), tmp_path, task(rest="[keep]\ntolerance = 0.0"))
    assert b"tolerance" not in strict.manifest.to_bytes()


def test_a_task_s_laziness_is_in_the_manifest(tmp_path: Path) -> None:
    lazy = compiled(dense(), tmp_path, task(rest="[upload]\nlazy = 0.5"))
    assert lazy.manifest.laziness == 0.5
    assert b"lazy" not in compiled(dense(), tmp_path, task()).manifest.to_bytes()


def test_model_follows_the_checkpoint_beside_it(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    x = batch()["x"]
    for factor in (1, 2):
        w = {p.name: factor * start(plan)[p.name] for p in plan.manifest.parameters}
        (tmp_path / "plan" / "checkpoint.safetensors").write_bytes(checkpoint.write(w))
        out = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
        np.testing.assert_allclose(out, forward(w, x), rtol=1e-5, atol=1e-6)


def test_equal_weights_stay_apart(tmp_path: Path) -> None:
    """Two biases that begin alike are two weights, also in the model."""
    made = dense(hidden=3)
    for i in (1, 3):
        zero = numpy_helper.from_array(np.zeros(3, np.float32), f"b{(i + 1) // 2}")
        made.graph.initializer[i].CopyFrom(zero)
    plan = compiled(made, tmp_path)
    w = {p.name: start(plan)[p.name] for p in plan.manifest.parameters} | {
        "b1": np.ones(3, np.float32)
    }
    (tmp_path / "plan" / "checkpoint.safetensors").write_bytes(checkpoint.write(w))
    x = batch()["x"]
    out = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    np.testing.assert_allclose(out, forward(w, x), rtol=1e-5, atol=1e-6)


def test_softmax_at_the_end_is_left_out_of_cross_entropy(tmp_path: Path) -> None:
    made = dense()
    made.graph.node[2].output[0] = "logits"
    made.graph.node.append(node("Softmax", "logits", "out"))
    plan = compiled(made, tmp_path)
    w, feeds = start(plan), batch()
    found = run(
        session(tmp_path / "plan" / "train.onnx"),
        {**feeds, **w, "learning_rate": np.float32(0.1)},
    )
    assert found["loss"] == pytest.approx(gradients(w, feeds)[0], rel=1e-5)
    out = run(session(tmp_path / "plan" / "model.onnx"), feeds)["out"]
    np.testing.assert_allclose(out.sum(1), 1, rtol=1e-5)


def test_tensors_may_be_called_anything(tmp_path: Path) -> None:
    """Names that the plan, safetensors, or the gradient builder use themselves."""
    nodes = [
        node("Gemm", "x loss learning_rate", "label", transB=1),
        node("Relu", "label", "t0"),
        node("Gemm", "t0 next/loss __metadata__", "loss_grad", transB=1),
        node("Identity", "loss_grad", "metric/loss"),
    ]
    values = weights(w1=(5, 4), b1=(5,), w2=(3, 5), b2=(3,))
    names = dict(zip(values, ("loss", "learning_rate", "next/loss", "__metadata__"), strict=True))
    made = model(nodes, {names[n]: v for n, v in values.items()}, outputs=("metric/loss",))
    plan = compiled(made, tmp_path)
    public = [p.name for p in plan.manifest.parameters]
    assert public == [f"weight/{n}" for n in names.values()]
    feeds = batch()
    found = steps(plan, tmp_path, feeds, 0.1, 1)
    loss, g = gradients(values, feeds)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    for n, name in zip(values, public, strict=True):
        np.testing.assert_allclose(found[name], values[n] - 0.1 * g[n], rtol=1e-5, atol=1e-6)
    assert "metric/loss" in run(session(tmp_path / "plan" / "model.onnx"), feeds)


def test_one_weight_used_twice(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("MatMul", "t w", "out")]
    plan = compiled(model(nodes, weights(w=(4, 4))), tmp_path)
    assert [p.name for p in plan.manifest.parameters] == ["w"]
    feeds = batch()
    first, later = (steps(plan, tmp_path, feeds, 0.5, n)["loss"] for n in (1, 30))
    assert later < first


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21, 22, 24])
def test_operator_sets(opset: int, tmp_path: Path) -> None:
    plan = compiled(dense(opset=opset), tmp_path)
    assert plan.manifest.opset == 21
    x = batch()["x"]
    out = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    np.testing.assert_allclose(out, forward(start(plan), x), rtol=1e-5, atol=1e-6)


def test_newest_file_format(tmp_path: Path) -> None:
    assert compiled(dense(ir_version=onnx.IR_VERSION), tmp_path).manifest.weights == 43


def test_old_format_with_weights_among_the_inputs(tmp_path: Path) -> None:
    made = dense()
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, FLOAT, tensor.dims))
    assert [i.name for i in compiled(made, tmp_path).manifest.inputs] == ["x", "label"]


FLATTENS = {
    "minus one first": [-1, 8],
    "zero first": [0, 8],
    "minus one last": [0, -1],
    "a batch of one": [1, 8],
    "a batch of one, minus one last": [1, -1],
}


@pytest.mark.parametrize(
    ("how", "first"),
    [(how, 1) for how in FLATTENS] + [(how, "N") for how in FLATTENS if FLATTENS[how][0] != 1],
)
def test_the_batch_varies_through_reshapes(how: str, first: str | int, tmp_path: Path) -> None:
    target = FLATTENS[how]
    nodes = [
        node("Conv", "x c", "h"),
        node("Reshape", "h shape", "f"),
        node("MatMul", "f w", "out"),
    ]
    values = {**weights(c=(2, 1, 1, 1), w=(8, 3)), "shape": np.array(target)}
    compiled(model(nodes, values, (first, 1, 2, 2)), tmp_path)
    for size in (1, 6):
        x = np.ones((size, 1, 2, 2), np.float32)
        assert run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"].shape == (size, 3)


def test_the_batch_varies_through_a_computed_shape(tmp_path: Path) -> None:
    """`x.view(x.size(0), -1)` as PyTorch exports it."""
    nodes = [
        node("Conv", "x c", "h"),
        node("Shape", "h", "s"),
        node("Gather", "s zero", "n", axis=0),
        node("Unsqueeze", "n first", "n1"),
        node("Concat", "n1 rest", "shape", axis=0),
        node("Reshape", "h shape", "f"),
        node("MatMul", "f w", "out"),
    ]
    values = {
        **weights(c=(2, 1, 1, 1), w=(8, 3)),
        "zero": np.array(0),
        "first": np.array([0]),
        "rest": np.array([-1]),
    }
    plan = compiled(model(nodes, values, ("N", 1, 2, 2)), tmp_path)
    feeds = {"x": np.ones((4, 1, 2, 2), np.float32), "label": np.array([0, 1, 2, 0])}
    assert np.isfinite(steps(plan, tmp_path, feeds, 0.1, 2)["loss"])
    assert "Shape" not in {
        n.op_type for n in onnx.load(tmp_path / "plan" / "model.onnx").graph.node
    }


def test_preprocessing_may_use_other_operators(tmp_path: Path) -> None:
    """Operators that no gradient passes need not be supported; inputs may be bytes."""
    nodes = [
        node("Cast", "image", "f", to=FLOAT),
        node("Div", "f scale", "d"),
        node("Elu", "d", "e"),
        node("Gemm", "e w b", "out"),
    ]
    values = {**weights(w=(4, 3), b=(3,)), "scale": np.array(255, np.float32)}
    made = model(nodes, values, inputs={"image": (onnx.TensorProto.UINT8, ("N", 4))})
    plan = compiled(made, tmp_path)
    assert next((i.name, i.dtype) for i in plan.manifest.inputs) == ("image", "uint8")
    assert [p.name for p in plan.manifest.parameters] == ["w", "b"]
    feeds = {"image": np.full((3, 4), 200, np.uint8), "label": np.array([0, 1, 2])}
    assert np.isfinite(steps(plan, tmp_path, feeds, 0.1, 2)["loss"])


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    """An input that only the other output needs is no example input, but the model keeps it."""
    nodes = [
        node("MatMul", "a wa", "ha"),
        node("MatMul", "b wb", "hb"),
        node("Add", "ha hb", "out"),
        node("MatMul", "c wc", "other"),
    ]
    made = model(
        nodes,
        weights(wa=(4, 3), wb=(2, 3), wc=(2, 2)),
        inputs={"a": (FLOAT, ("N", 4)), "b": (FLOAT, ("N", 2)), "c": (FLOAT, ("N", 2))},
        outputs=("out", "other"),
    )
    plan = compiled(made, tmp_path, task(more='output = "out"'))
    assert [i.name for i in plan.manifest.inputs] == ["a", "b", "label"]
    assert [p.name for p in plan.manifest.parameters] == ["wa", "wb"]
    kept = session(tmp_path / "plan" / "model.onnx")
    assert [i.name for i in kept.get_inputs()] == ["a", "b", "c"]
    assert [o.name for o in kept.get_outputs()] == ["out", "other"]


def test_external_weights_of_the_model_are_read(tmp_path: Path) -> None:
    plain = compiled(dense(), tmp_path)
    path = tmp_path / "model.onnx"
    onnx.save(dense(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert compile_task(task(), path) == plain
