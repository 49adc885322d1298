"""The metrics that plans measure, against scikit-learn, over batches of unequal size."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from sklearn import metrics

from coordinator.compiler.errors import CompileError
from coordinator.compiler.plan import CompiledPlan
from edge_agent.examples import Examples
from tests.coordinator.compiler.building import compiled, dense, model, node, run, session, task
from tests.coordinator.compiler.losses import image, log_softmax, words
from tests.coordinator.compiler.stepping import measured

COUNT = 150  # evaluated in batches of 64, 64 and 22
BINARY = ("accuracy", "precision", "recall", "f1", "auc")
CLASSES = (*BINARY, "top_2")


def identity(width: int) -> onnx.ModelProto:
    """A model whose output is its input, as it starts."""
    eye = np.eye(width, dtype=np.float32)
    return model([node("MatMul", "x w", "out")], {"w": eye}, ("N", width))


def measure(plan: CompiledPlan, folder: Path, **arrays: np.ndarray) -> dict[str, float]:
    return measured(plan, folder, Examples(arrays))


def scores(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=shape, scale=2).astype(np.float32)


def labels(*shape: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(4).integers(0, classes, shape)


def macro(found: Callable[..., float], said: np.ndarray, label: np.ndarray) -> float:
    """Over the classes for which it is defined."""
    return float(found(label, said, average="macro", zero_division=np.nan))


def of_classes(x: np.ndarray, label: np.ndarray, *, exclusive: bool = True) -> dict[str, float]:
    """scikit-learn's figures for scores [places, classes]."""
    said, p = x.argmax(axis=1), np.exp(log_softmax(x.astype(np.float64)))
    ranked = p if exclusive else x
    areas = [metrics.roc_auc_score(label == c, ranked[:, c]) for c in range(x.shape[1])]
    return {
        "accuracy": metrics.accuracy_score(label, said),
        "precision": macro(metrics.precision_score, said, label),
        "recall": macro(metrics.recall_score, said, label),
        "f1": macro(metrics.f1_score, said, label),
        "auc": float(np.mean(areas)),
        "top_2": metrics.top_k_accuracy_score(label, x, k=2, labels=range(x.shape[1])),
    }


def agree(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # Scores that fall into one bin of the histogram count as equal.
        error = 2e-3 if name == "auc" else 1e-6
        assert found[name] == pytest.approx(value, abs=error), name


@pytest.mark.parametrize("loss", ["cross_entropy", "hinge", "squared_hinge"])
def test_of_classes(loss: str, tmp_path: Path) -> None:
    plan = compiled(identity(4), tmp_path, task(loss, metrics=CLASSES))
    x, label = scores(COUNT, 4), labels(COUNT, classes=4)
    expected = of_classes(x, label, exclusive=loss == "cross_entropy")
    agree(measure(plan, tmp_path, x=x, label=label), expected)


@pytest.mark.parametrize("axis", [1, -1])
def test_of_places_of_which_some_are_ignored(axis: int, tmp_path: Path) -> None:
    more = f"axis = {axis}\nignored = -100"
    built = image() if axis == 1 else words()
    plan = compiled(built, tmp_path, task(more=more, metrics=CLASSES))
    x = scores(COUNT, *((2, 2, 3) if axis == 1 else (5, 4)))
    out = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})["out"]
    label = labels(COUNT, *((2, 3) if axis == 1 else (5,)))
    label[:70:2] = -100  # uneven over the batches
    flat = np.moveaxis(out, axis, -1).reshape(-1, 3)
    counted = label.ravel() != -100
    expected = of_classes(flat[counted], label.ravel()[counted])
    agree(measure(plan, tmp_path, x=x, label=label), expected)


@pytest.mark.parametrize("loss", ["bce", "hinge", "squared_hinge"])
def test_of_yes_and_no(loss: str, tmp_path: Path) -> None:
    plan = compiled(identity(1), tmp_path, task(loss, metrics=BINARY))
    x, label = scores(COUNT, 1), labels(COUNT, classes=2)
    x[label == 1] += 1
    said = (x > 0).ravel().astype(int)
    expected = {
        "accuracy": metrics.accuracy_score(label, said),
        "precision": metrics.precision_score(label, said),
        "recall": metrics.recall_score(label, said),
        "f1": metrics.f1_score(label, said),
        "auc": metrics.roc_auc_score(label, x.ravel()),
    }
    if loss == "bce":
        found = measure(plan, tmp_path, x=x, target=label.reshape(-1, 1).astype(np.float32))
    else:
        found = measure(plan, tmp_path, x=x, label=label)
    agree(found, {name: float(value) for name, value in expected.items()})


def test_yes_and_no_of_several_are_counted_together(tmp_path: Path) -> None:
    plan = compiled(identity(3), tmp_path, task("bce", metrics=BINARY))
    x, target = scores(COUNT, 3), labels(COUNT, 3, classes=2).astype(np.float32)
    said, actual = (x > 0).ravel(), target.ravel()
    found = measure(plan, tmp_path, x=x, target=target)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(actual, said))
    assert found["f1"] == pytest.approx(metrics.f1_score(actual, said))
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(actual, x.ravel()), abs=2e-3)


@pytest.mark.parametrize("loss", ["mse", "l1", "huber"])
def test_of_numbers(loss: str, tmp_path: Path) -> None:
    plan = compiled(identity(3), tmp_path, task(loss, metrics=("rmse", "mae")))
    x, target = scores(COUNT, 3), scores(COUNT, 3)[::-1].copy()
    found = measure(plan, tmp_path, x=x, target=target)
    assert found["rmse"] == pytest.approx(
        metrics.root_mean_squared_error(target.ravel(), x.ravel())
    )
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(target, x))


def test_equal_scores_count_a_half(tmp_path: Path) -> None:
    """Exactly, where scores are equal or bins apart."""
    plan = compiled(identity(1), tmp_path, task("hinge", metrics=("auc",)))
    rng = np.random.default_rng(5)
    x = rng.integers(-3, 4, (COUNT, 1)).astype(np.float32)
    label = rng.integers(0, 2, COUNT)
    expected = metrics.roc_auc_score(label, x.ravel())
    assert measure(plan, tmp_path, x=x, label=label)["auc"] == pytest.approx(expected, abs=1e-12)


def test_large_and_sure_scores_are_told_apart(tmp_path: Path) -> None:
    """Where a sigmoid in float32 is 1 for all of them."""
    plan = compiled(identity(1), tmp_path, task("hinge", metrics=("auc",)))
    x = np.array([[20.0], [30.0], [45.0], [90.0]], np.float32)
    found = measure(plan, tmp_path, x=x, label=np.array([0, 0, 1, 1]))
    assert found["auc"] == 1


def test_a_model_that_says_the_same_of_all_is_not_good_at_anything(tmp_path: Path) -> None:
    plan = compiled(identity(4), tmp_path, task(metrics=CLASSES))
    x, label = np.zeros((COUNT, 4), np.float32), labels(COUNT, classes=4)
    found = measure(plan, tmp_path, x=x, label=label)
    assert found["auc"] == 0.5
    assert found["top_2"] == pytest.approx((label < 2).mean())


def test_nothing_that_counts_is_a_number_all_the_same(tmp_path: Path) -> None:
    plan = compiled(identity(3), tmp_path, task(more="ignored = -1", metrics=("loss", *CLASSES)))
    found = measure(plan, tmp_path, x=scores(5, 3), label=np.full(5, -1))
    assert found == {name: 0.5 if name == "auc" else 0.0 for name in ("loss", *CLASSES)}


def test_a_class_that_never_comes_counts_nowhere(tmp_path: Path) -> None:
    plan = compiled(identity(3), tmp_path, task(metrics=("recall", "auc")))
    x, label = scores(COUNT, 3), labels(COUNT, classes=2)
    p = np.exp(log_softmax(x.astype(np.float64)))
    found = measure(plan, tmp_path, x=x, label=label)
    areas = [metrics.roc_auc_score(label == c, p[:, c]) for c in (0, 1)]
    assert found["auc"] == pytest.approx(np.mean(areas), abs=2e-3)
    assert found["recall"] == pytest.approx(
        macro(metrics.recall_score, x.argmax(axis=1), label), abs=1e-6
    )


def test_the_manifest_says_what_to_make_of_the_totals(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(metrics=("loss", "accuracy", "f1", "auc")))
    assert [(m.reduce, m.totals, m.better) for m in plan.manifest.metrics] == [
        ("mean", (), "lower"),
        ("mean", (), "higher"),
        ("ratio", (2, 3), "higher"),
        ("auc", (2, 3, 1024), "higher"),
    ]
    assert sum(map(len, plan.files.values())) < 12_000  # no file holds a histogram of zeros


@pytest.mark.parametrize(("k", "classes"), [(3, 3), (100, 10)])
def test_a_top_k_of_all_classes_is_refused(k: int, classes: int, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=f"needs more than {k} classes, and output 'out' has"):
        compiled(dense(classes=classes), tmp_path, task(metrics=(f"top_{k}",)))


def test_an_auc_of_very_many_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="'auc': 9000 classes; at most 8192"):
        compiled(dense(classes=9000), tmp_path, task(metrics=("auc",)))


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "hinge"])
def test_scores_that_are_no_numbers_have_no_auc(loss: str, tmp_path: Path) -> None:
    """A model that has diverged: its figure is left out, and the plan is not to blame."""
    plan = compiled(identity(3), tmp_path, task(loss, metrics=("auc",)))
    x = scores(9, 3)
    x[4, 1] = np.nan
    target = {"target": np.eye(3, dtype=np.float32)[np.arange(9) % 3]}
    given = target if loss == "bce" else {"label": np.arange(9) % 3}
    assert math.isnan(measure(plan, tmp_path, x=x, **given)["auc"])


def test_infinite_scores_are_the_highest(tmp_path: Path) -> None:
    plan = compiled(identity(1), tmp_path, task("hinge", metrics=("auc",)))
    x = np.array([[np.inf], [3e38], [1], [-np.inf]], np.float32)
    assert measure(plan, tmp_path, x=x, label=np.array([1, 1, 0, 0]))["auc"] == 1
