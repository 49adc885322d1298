"""Batch norms whose statistics the devices recompute, from the task file to the trained model."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from coordinator.compiler.errors import CompileError
from edge_agent.examples import Examples
from tests.coordinator.compiler.building import compiled, dense, model, node, run, session, task
from tests.coordinator.compiler.building import weights as random
from tests.coordinator.compiler.stepping import first, trainer_of
from tests.coordinator.compiler.test_gradients_norms import statistics
from wire import checkpoint

RECOMPUTED = 'batch_norm = "recomputed"'
MOMENTUM = 0.75


def network(outputs: str = "n", **attributes: int) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w", "h"),
        node("BatchNormalization", "h s b mean var", outputs, momentum=MOMENTUM, **attributes),
        node("Relu", "n", "r"),
        node("ReduceMean", "r axes", "p", keepdims=0),
        node("Gemm", "p v", "out"),
    ]
    values = {
        **random(w=(4, 1, 2, 2), s=(4,), b=(4,), v=(4, 3)),
        **statistics(),
        "axes": np.array([2, 3]),
    }
    return model(nodes, values, ("N", 1, 4, 4), opset=21)


def examples(count: int = 6) -> Examples:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(count, 1, 4, 4), loc=1).astype(np.float32)
    return Examples({"x": x, "label": rng.integers(0, 3, count)})


def convolved(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    patches = np.lib.stride_tricks.sliding_window_view(x[:, 0], (2, 2), axis=(1, 2))
    return np.einsum("nijkl,ckl->ncij", patches, w[:, 0])


@pytest.mark.parametrize("exported", [0, 1])
def test_frozen_statistics_are_the_default(exported: int, tmp_path: Path) -> None:
    """Also where the model was exported in training mode."""
    made = network("n m1 v1" if exported else "n", training_mode=exported)
    plan = compiled(made, tmp_path, task())
    assert [p.name for p in plan.manifest.parameters] == ["w", "s", "b", "v"]
    for name in ("train", "model", "evaluate"):
        nodes = onnx.load(tmp_path / "plan" / f"{name}.onnx", load_external_data=False).graph.node
        (norm,) = (n for n in nodes if n.op_type == "BatchNormalization")
        mode = {a.name: a.i for a in norm.attribute}.get("training_mode", 0)
        assert (mode, len(norm.output)) == (0, 1)


@pytest.mark.parametrize("proximal", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_running_statistics_follow_the_batches(
    optimizer: str, proximal: float, tmp_path: Path
) -> None:
    kind = f'kind = "{optimizer}"\nlearning_rate = 0.1'
    spec = task(optimizer=kind, model=RECOMPUTED, proximal=proximal)
    plan = compiled(network(), tmp_path, spec)
    assert {p.name for p in plan.manifest.parameters} == {"w", "s", "b", "v", "mean", "var"}
    assert not any("mean" in slot.name or "var" in slot.name for slot in plan.manifest.state)
    initial, trainer = first(plan), trainer_of(plan, tmp_path)
    batch = examples()
    trainer.step(batch)
    delta = trainer.delta()
    h = convolved(batch.arrays["x"], initial["w"])
    mean, var = h.mean(axis=(0, 2, 3)), h.var(axis=(0, 2, 3))
    left = 1 - MOMENTUM
    np.testing.assert_allclose(delta["mean"], left * (mean - initial["mean"]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(delta["var"], left * (var - initial["var"]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(), (1, 1)])
def test_a_last_batch_of_one_value_a_channel_says_nothing_of_the_variance(
    size: tuple[int, ...], tmp_path: Path
) -> None:
    """It has a mean, and a variance of 0: that would make the running one smaller every epoch."""
    nodes = [
        node("BatchNormalization", "x s b mean var", "n", momentum=MOMENTUM),
        node("Flatten", "n", "f"),
        node("Gemm", "f v", "out"),
    ]
    made = model(nodes, {**random(s=(4,), b=(4,), v=(4, 3)), **statistics()}, ("N", 4, *size))
    plan = compiled(made, tmp_path, task(model=RECOMPUTED))
    initial, trainer = first(plan), trainer_of(plan, tmp_path)
    x = np.random.default_rng(4).normal(size=(3, 4, *size)).astype(np.float32)
    trainer.step(Examples({"x": x[:1], "label": np.array([2])}))
    delta = trainer.delta()
    far = x[0].reshape(4) - initial["mean"]
    np.testing.assert_allclose(delta["mean"], (1 - MOMENTUM) * far, rtol=1e-4, atol=1e-6)
    assert not delta["var"].any()
    trainer.step(Examples({"x": x, "label": np.array([2, 0, 1])}))
    far = x.reshape(3, 4).var(axis=0) - initial["var"]
    np.testing.assert_allclose(trainer.delta()["var"], (1 - MOMENTUM) * far, rtol=1e-4, atol=1e-6)


def test_training_uses_the_batch_and_evaluation_the_running_statistics(tmp_path: Path) -> None:
    plan = compiled(network(), tmp_path, task(model=RECOMPUTED))
    initial = first(plan)
    far = initial | {"mean": initial["mean"] + 100, "var": initial["var"] * 9}
    (tmp_path / "plan" / "checkpoint.safetensors").write_bytes(checkpoint.write(far))
    feeds = {"x": examples().arrays["x"], "label": examples().arrays["label"]}
    losses = [
        run(session(tmp_path / "plan" / "train.onnx"),
            {**feeds, **w, "learning_rate": np.float32(0.1)})["loss"]
        for w in (initial, far)
    ]  # fmt: skip
    assert losses[0] == losses[1]
    totals = [
        run(session(tmp_path / "plan" / "evaluate.onnx"), {**feeds, **w})["metric/loss"]
        for w in (initial, far)
    ]
    assert totals[0] != pytest.approx(totals[1])
    out = run(session(tmp_path / "plan" / "model.onnx"), feeds)["out"]
    h = convolved(feeds["x"], far["w"])
    wide = {n: v.reshape(-1, 1, 1) for n, v in far.items() if n in ("s", "b", "mean", "var")}
    n = (h - wide["mean"]) / np.sqrt(wide["var"] + 1e-5) * wide["s"] + wide["b"]
    expected = np.maximum(n, 0).mean(axis=(2, 3)) @ far["v"]
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_falls(tmp_path: Path) -> None:
    plan = compiled(network(), tmp_path, task(model=RECOMPUTED))
    trainer = trainer_of(plan, tmp_path)
    found = [trainer.step(examples()) for _ in range(100)]
    assert found[-1] < 0.8 * found[0]


def test_frozen_patterns_keep_a_norm_s_statistics(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="every batch norm has statistics that are to stay"):
        compiled(network(), tmp_path, task(model=RECOMPUTED, frozen=["mean"]))


def test_a_model_without_batch_norm(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"recomputed.*do_constant_folding"):
        compiled(dense(), tmp_path, task(model=RECOMPUTED))
