"""Low-rank adapters: what they compute, what travels, and what is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from coordinator.compiler import model as models
from coordinator.compiler.errors import CompileError
from coordinator.compiler.lora import adapted
from coordinator.compiler.plan import CompiledPlan
from coordinator.export import complete_model
from coordinator.taskfile import TaskFile, TaskFileError
from tests.coordinator.compiler.building import (
    compiled,
    dense,
    model,
    node,
    run,
    session,
    task,
    weights,
)
from tests.coordinator.compiler.checking import Gradients, close
from tests.coordinator.compiler.stepping import examples, first, trainer_of
from wire import checkpoint


def lora(names: str, rank: int = 2, more: str = "", **kwargs: object) -> TaskFile:
    """A task with adapters on the weights of these patterns."""
    table = f"[model.lora]\nweights = {names.split()!r}\nrank = {rank}\nalpha = 6.0\n{more}"
    return task(rest=table, **kwargs)  # type: ignore[arg-type]


def wide(classes: int = 3) -> onnx.ModelProto:
    """`dense`, and so wide that its matrix lies in the frozen file."""
    return dense(hidden=80, classes=classes)


def trained(plan: CompiledPlan, folder: Path, steps: int) -> tuple[list[float], bytes]:
    """The losses of so many steps, and the checkpoint after them."""
    trainer = trainer_of(plan, folder)
    losses = [trainer.step(examples(12)) for _ in range(steps)]
    return losses, checkpoint.write(trainer.weights())


def test_only_adapters_travel_and_the_model_begins_as_it_was(tmp_path: Path) -> None:
    plan = compiled(wide(), tmp_path, lora("w*"))
    assert [(p.name, p.shape) for p in plan.manifest.parameters] == [
        ("w1/lora_a", (4, 2)), ("w1/lora_b", (2, 80)),
        ("w2/lora_a", (80, 2)), ("w2/lora_b", (2, 3)),
    ]  # fmt: skip
    begun = first(plan)
    assert not any(begun[f"{name}/lora_b"].any() for name in ("w1", "w2"))
    assert 0.5 < begun["w2/lora_a"].std() * np.sqrt(80) < 1.5
    feeds = examples(12).arrays
    whole = onnx.load(tmp_path / "model.onnx").SerializeToString()
    expected = run(session(whole), feeds)["out"]
    found = run(session(tmp_path / "plan" / "model.onnx"), feeds)["out"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_trained_adapter_is_in_the_model_and_in_its_export(tmp_path: Path) -> None:
    """W' = W + alpha / rank A B, the transposed way for a Gemm that transposes W."""
    plan = compiled(wide(), tmp_path, lora("w*"))
    losses, after = trained(plan, tmp_path, 60)
    assert losses[-1] < losses[0] - 0.1
    (tmp_path / "plan" / "checkpoint.safetensors").write_bytes(after)
    w = checkpoint.read(after, plan.manifest.parameters)
    own = {t.name: numpy_helper.to_array(t) for t in wide().graph.initializer}
    changed = {n: own[n] + 3.0 * (w[f"{n}/lora_a"] @ w[f"{n}/lora_b"]).T for n in ("w1", "w2")}
    x = examples(12).arrays["x"]
    hidden = np.maximum(x @ changed["w1"].T + own["b1"], 0)
    expected = hidden @ changed["w2"].T + own["b2"]
    found = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    complete = complete_model(plan.files["model.onnx"], after, plan.files["frozen.bin"])
    np.testing.assert_array_equal(run(session(complete), {"x": x})["out"], found)


def test_the_rest_is_trained_when_the_task_says_so(tmp_path: Path) -> None:
    plan = compiled(wide(), tmp_path, lora("w1", more="train_rest = true", frozen=["b2"]))
    assert [p.name for p in plan.manifest.parameters] == ["b1", "w1/lora_a", "w1/lora_b", "w2"]


def test_no_step_makes_a_matrix_as_large_as_the_frozen_one(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w0", "h"), node("Relu", "h", "r"), node("MatMul", "r w1", "out")]
    made = model(nodes, weights(w0=(31, 29), w1=(29, 3)), ("N", 31))
    compiled(made, tmp_path, lora("w0"))
    proto = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "plan" / "train.onnx"))
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.value_info]
    assert [0, 2] in shapes  # x A, of any batch
    assert not [s for s in shapes if sorted(s) == [29, 31]]


CASES = {
    "MatMul of three axes": (
        [node("MatMul", "x w", "h"), node("Tanh", "h", "out")],
        weights(w=(4, 5)),
        ("N", 3, 4),
    ),
    "Gemm with alpha": (
        [node("Gemm", "x w b", "h", alpha=0.5), node("Tanh", "h", "out")],
        weights(w=(4, 5), b=(5,)),
        ("N", 4),
    ),
    "Gemm, transposed": (
        [node("Gemm", "x w", "h", transB=1), node("Tanh", "h", "out")],
        weights(w=(5, 4)),
        ("N", 4),
    ),
    "Conv of 1x1 with strides": (
        [node("Conv", "x w b", "c", strides=[2, 1]), node("Flatten", "c", "out")],
        weights(w=(5, 4, 1, 1), b=(5,)),
        ("N", 4, 4, 3),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, tmp_path: Path) -> None:
    def load(path: Path) -> models.Model:
        found = adapted(models.load(path), lora("w").model.lora)
        rng = np.random.default_rng(8)  # zeros of B would hide A's gradient
        for weight in set(found.weights) - found.still:
            found.values[weight] = rng.normal(size=found.values[weight].shape).astype("f4")
        return found

    made = Gradients(model(*CASES[name]), lora("w", loss="mse"), tmp_path, load)
    feeds = made.examples(3)
    lowered = made.lowered(feeds)
    assert set(lowered) == {"w/lora_a", "w/lora_b"}
    made.check_differences(feeds, lowered)
    for weight, expected in made.training_build(feeds).items():
        close(lowered[weight], expected)


@pytest.mark.parametrize(
    ("names", "rank", "error"),
    [
        ("nothing.*", 2, "model.lora.weights: 'nothing.*' matches no weight of the model; it has"),
        ("b1", 1, r"'b1' has the shape \[80\] and goes to Gemm; adapters need a matrix that only"),
        ("w2", 4, "model.lora.rank = 4: at most 3 for 'w2', which is 80 by 3"),
    ],
)
def test_what_no_adapter_can_be_put_beside(
    names: str, rank: int, error: str, tmp_path: Path
) -> None:
    with pytest.raises(CompileError, match=error):
        compiled(wide(), tmp_path, lora(names, rank))


def test_a_chosen_weight_that_adapters_keep_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"model\.trained: 'b1' stays.*model\.lora.*train_rest"):
        compiled(wide(), tmp_path, lora("w1", model='trained = ["b1"]'))
    plan = compiled(wide(), tmp_path, lora("w1", more="train_rest = true", frozen=["w2", "b2"]))
    assert {p.name for p in plan.manifest.parameters} == {"w1/lora_a", "w1/lora_b", "b1"}


def test_a_weight_that_is_used_both_ways_or_elsewhere_is_refused(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x w", "h"), node("Gemm", "h w", "out", transB=1)]
    with pytest.raises(CompileError, match="'w' is taken as it is and transposed"):
        compiled(model(nodes, weights(w=(4, 4))), tmp_path, lora("w"))
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "w h2", "k"), node("MatMul", "h k", "out")]
    with pytest.raises(CompileError, match="'w' has the shape"):
        compiled(model(nodes, weights(w=(4, 4), h2=(4, 3))), tmp_path, lora("w"))


@pytest.mark.parametrize("line", ["rank = 0", "alpha = 0.0", "alpha = -1.0", "weights = []"])
def test_a_bad_table_is_an_error_of_the_task_file(line: str) -> None:
    key = line.split()[0]
    table = {"weights": 'weights = ["w"]', "rank": "rank = 2", "alpha": "alpha = 1.0"} | {key: line}
    with pytest.raises(TaskFileError, match=f"model.lora.{key}"):
        task(rest="[model.lora]\n" + "\n".join(table.values()))
