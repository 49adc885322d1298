"""Each loss: its gradient, its value, what it does at the edges, and that it falls."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from sklearn import metrics

from coordinator.compiler.errors import CompileError
from coordinator.compiler.losses import LOSSES
from coordinator.compiler.plan import CompiledPlan
from edge_agent.examples import Examples
from tests.coordinator.compiler.building import (
    FLOAT,
    INT64,
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
from tests.coordinator.compiler.losses import CASES, cross_entropy
from tests.coordinator.compiler.stepping import Arrays, measured, trainer_of


def some(plan: CompiledPlan, count: int, seed: int = 1) -> Arrays:
    """Random examples; labels that may be ignored are so now and then."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for entry in plan.manifest.inputs:
        shape = (count, *entry.shape)
        if entry.classes is not None:
            labels = rng.integers(0, entry.classes, shape)
            if entry.ignored_label is not None:
                labels = np.where(rng.random(shape) < 0.3, entry.ignored_label, labels)
            arrays[entry.name] = labels
        elif entry.dtype == "int64":
            arrays[entry.name] = rng.integers(-2, 3, shape)
        elif entry.name == "target":
            arrays[entry.name] = rng.random(shape, np.float32)
        else:
            arrays[entry.name] = rng.normal(size=shape).astype(np.float32)
    return arrays


def outputs(folder: Path, arrays: Arrays) -> np.ndarray:
    return run(session(folder / "plan" / "model.onnx"), arrays)["out"]


def label_of(plan: CompiledPlan) -> str:
    return plan.manifest.inputs[-1].name


def test_every_loss_has_a_case() -> None:
    kinds = {kind.__struct_config__.tag for kind in LOSSES}
    assert {case.kind for case in CASES.values()} == kinds


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, batch: int, tmp_path: Path) -> None:
    gradients = Gradients(CASES[name].build(), CASES[name].task(), tmp_path)
    examples = gradients.examples(batch)
    if name.startswith("contrastive"):
        examples["label"] = np.arange(batch) // 3
    lowered = gradients.lowered(examples)
    if batch > 1:
        assert any(np.abs(value).max() > 1e-4 for value in lowered.values())
    gradients.check_differences(examples, lowered)
    expected = gradients.training_build(examples)
    for w, value in lowered.items():
        close(value, expected[w])


@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_a_batch_and_of_all_examples(name: str, tmp_path: Path) -> None:
    """Evaluated in batches of 64, 64 and 22: the mean is that of all 150."""
    case = CASES[name]
    plan = compiled(case.build(), tmp_path, case.task())
    arrays = some(plan, 64 if case.by_batch else 150)
    expected = case.reference(outputs(tmp_path, arrays).astype(np.float64), arrays[label_of(plan)])
    assert measured(plan, tmp_path, Examples(arrays))["loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer_of(plan, tmp_path).step(Examples(arrays)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e4])
@pytest.mark.parametrize("name", CASES)
def test_nothing_and_huge_numbers_have_finite_gradients(
    name: str, scale: float, tmp_path: Path
) -> None:
    case = CASES[name]
    made = case.build()
    for tensor in made.graph.initializer if scale == 0 else ():
        value = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(value * (value.dtype.kind != "f"), tensor.name))
    plan = compiled(made, tmp_path, case.task())
    arrays = some(plan, 12)
    arrays["x"] *= max(scale, 1)
    trainer = trainer_of(plan, tmp_path)
    loss = trainer.step(Examples(arrays))
    assert np.isfinite(loss)
    assert all(np.isfinite(change).all() for change in trainer.delta().values())
    assert measured(plan, tmp_path, Examples(arrays))["loss"] == pytest.approx(
        loss, rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("name", ["bce", "hinge", "squared_hinge", "cross_entropy"])
def test_a_classifier_that_starts_at_zero_learns(name: str, tmp_path: Path) -> None:
    """Where all logits are 0 the slope must be that at 0, not one beside a kink."""
    made = model([node("Gemm", "x w b", "out")], {"w": np.zeros((4, 3), np.float32),
                 "b": np.zeros(3, np.float32)})  # fmt: skip
    gradients = Gradients(made, CASES[name].task(), tmp_path)
    examples = gradients.examples(9)
    gradients.check_differences(examples, gradients.lowered(examples))


@pytest.mark.parametrize("name", [name for name in CASES if "ignored" in name or "all" in name])
def test_a_batch_in_which_nothing_counts_changes_nothing(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    spec = case.task()
    plan = compiled(case.build(), tmp_path, spec)
    arrays = some(plan, 5)
    arrays["label"] = np.full_like(arrays["label"], spec.losses[0].ignored)
    trainer = trainer_of(plan, tmp_path)
    assert trainer.step(Examples(arrays)) == 0
    assert not any(change.any() for change in trainer.delta().values())
    assert measured(plan, tmp_path, Examples(arrays))["loss"] == 0


@pytest.mark.parametrize("labels", [[3], [1, 2, 3, 4, 5]])
def test_no_two_of_one_label_teach_a_contrastive_loss_nothing(
    labels: list[int], tmp_path: Path
) -> None:
    plan = compiled(dense(), tmp_path, task("contrastive"))
    arrays = some(plan, len(labels)) | {"label": np.array(labels)}
    trainer = trainer_of(plan, tmp_path)
    assert trainer.step(Examples(arrays)) == 0
    assert not any(change.any() for change in trainer.delta().values())
    assert measured(plan, tmp_path, Examples(arrays))["loss"] == 0


def test_a_vector_of_zeros_is_like_no_other(tmp_path: Path) -> None:
    plan = compiled(model([node("MatMul", "x w", "out")], weights(w=(4, 3))), tmp_path,
                    task("cosine"))  # fmt: skip
    arrays = some(plan, 2)
    arrays["x"][:] = 0
    trainer = trainer_of(plan, tmp_path)
    assert trainer.step(Examples(arrays)) == 1
    assert not any(change.any() for change in trainer.delta().values())


@pytest.mark.parametrize("name", CASES)
def test_it_falls_in_training(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    optimizer = 'kind = "adamw"\nlearning_rate = 0.02\nweight_decay = 0.0'
    plan = compiled(case.build(), tmp_path, case.task(optimizer=optimizer))
    batch = Examples(some(plan, 12))
    trainer = trainer_of(plan, tmp_path)
    losses = [trainer.step(batch) for _ in range(150)]
    assert losses[-1] < 0.95 * losses[0]


def test_smooth_weighted_cross_entropy_has_the_training_builds_gradient(tmp_path: Path) -> None:
    """With class weights and an ignored label, against ONNX Runtime's own kernels."""
    rng = np.random.default_rng(4)
    logits, label = rng.normal(size=(9, 3)).astype(np.float32), rng.integers(0, 3, 9)
    w = np.array([0.5, 2.0, 1.25], np.float32)
    nodes = [
        helper.make_node(
            "SoftmaxCrossEntropyLoss", ["x", "label", "w"], ["loss", "log_p"], ignore_index=2
        ),
        helper.make_node(
            "SoftmaxCrossEntropyLossGrad",
            ["one", "log_p", "label", "w"],
            ["dx"],
            domain="com.microsoft",
            ignore_index=2,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "kernels",
        [
            helper.make_tensor_value_info("x", FLOAT, ["N", 3]),
            helper.make_tensor_value_info("label", INT64, ["N"]),
        ],
        [helper.make_tensor_value_info(n, FLOAT, None) for n in ("loss", "dx")],
        [numpy_helper.from_array(v, n) for n, v in (("w", w), ("one", np.array(1, np.float32)))],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    theirs = run(session(made.SerializeToString()), {"x": logits, "label": label})
    identity = model([node("MatMul", "x w", "out")], {"w": np.eye(3, dtype=np.float32)}, ("N", 3))
    more = f"class_weights = {w.tolist()}\nignored = 2"
    gradients = Gradients(identity, task(more=more), tmp_path)
    ours = gradients.lowered({"x": logits, "label": label})["w"]
    close(ours, logits.T @ theirs["dx"])
    assert cross_entropy(w.tolist(), 2)(logits, label) == pytest.approx(float(theirs["loss"]))


def test_what_scikit_learn_says(tmp_path: Path) -> None:
    for kind in ("bce", "hinge"):
        folder = tmp_path / kind
        folder.mkdir()
        plan = compiled(dense(classes=1), folder, task(kind))
        arrays = some(plan, 100)
        label = np.arange(100) % 2
        shaped = label.reshape(-1, 1).astype(np.float32) if kind == "bce" else label
        arrays[label_of(plan)] = shaped
        scores = outputs(folder, arrays).ravel().astype(np.float64)
        theirs = (
            metrics.log_loss(label, 1 / (1 + np.exp(-scores)))
            if kind == "bce"
            else metrics.hinge_loss(label, scores)
        )
        assert measured(plan, folder, Examples(arrays))["loss"] == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "ending"),
    [("cross_entropy", "Softmax"), ("cross_entropy", "LogSoftmax"), ("bce", "Sigmoid")],
)
def test_a_models_own_last_step_is_not_done_twice(loss: str, ending: str, tmp_path: Path) -> None:
    """The loss is that of the logits before it, of any size; the model keeps what it has."""
    made = model(
        [node("MatMul", "x w", "h"), node(ending, "h", "p"), node("Identity", "p", "out")],
        weights(w=(4, 3)),
    )
    plain, ended = tmp_path / "plain", tmp_path / "ended"
    plain.mkdir()
    ended.mkdir()
    without = compiled(model([node("MatMul", "x w", "out")], weights(w=(4, 3))), plain, task(loss))
    plan = compiled(made, ended, task(loss))
    assert plan.files["train.onnx"] == without.files["train.onnx"]
    arrays = some(plan, 6)
    arrays["x"] *= 1e4
    assert np.isfinite(trainer_of(plan, ended).step(Examples(arrays)))
    assert outputs(ended, arrays).max() <= 1


@pytest.mark.parametrize(
    ("loss", "ending", "meant"),
    [("bce", "Softmax", "cross_entropy"), ("cross_entropy", "Sigmoid", "bce")],
)
def test_probabilities_are_not_taken_for_logits(
    loss: str, ending: str, meant: str, tmp_path: Path
) -> None:
    """It would train, and badly: a loss of sigmoids of a softmax."""
    made = model([node("MatMul", "x w", "h"), node(ending, "h", "out")], weights(w=(4, 3)))
    with pytest.raises(CompileError, match=f"'{loss}' takes logits.*{ending}.*'{meant}'"):
        compiled(made, tmp_path, task(loss))
