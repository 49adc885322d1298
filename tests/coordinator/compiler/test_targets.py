"""Several losses at once, a model's own input as target, and every label that does not fit."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from coordinator.taskfile import TaskFile, TaskFileError, parse
from edge_agent.examples import Examples
from tests.coordinator.compiler.building import (
    FLOAT,
    INT64,
    compiled,
    dense,
    model,
    node,
    refused,
    run,
    session,
    task,
    weights,
)
from tests.coordinator.compiler.checking import Gradients, close
from tests.coordinator.compiler.losses import cross_entropy
from tests.coordinator.compiler.stepping import measured, trainer_of

LABELS = 'kind = "cross_entropy"\noutput = "out"'
NUMBERS = 'kind = "mse"\noutput = "number"'


def several(*losses: str, metrics: Sequence[str] = ("loss",)) -> TaskFile:
    """A task with these `[[loss]]` tables."""
    tables = "\n".join(f"[[loss]]\n{text}" for text in losses)
    return parse(f"""
        name = "test"
        model = {{ file = "model.onnx" }}
        {tables}
        [optimizer]
        kind = "sgd"
        learning_rate = 0.1
        [training]
        metrics = {list(metrics)!r}
        [round]
        goal = 2
        """)


def two_heads() -> onnx.ModelProto:
    """Classes and a number of one trunk."""
    nodes = [
        node("Gemm", "x w1 b1", "h"),
        node("Tanh", "h", "t"),
        node("Gemm", "t w2 b2", "out"),
        node("Gemm", "t w3 b3", "number"),
    ]
    values = weights(w1=(4, 5), b1=(5,), w2=(5, 3), b2=(3,), w3=(5, 1), b3=(1,))
    return model(nodes, values, outputs=("out", "number"))


def autoencoder(ending: str = "Identity", x: Sequence[int] = (6,)) -> onnx.ModelProto:
    nodes = [
        node("Gemm", "f w1 b1" if len(x) > 1 else "x w1 b1", "h"),
        node("Tanh", "h", "t"),
        node("Gemm", "t w2 b2", "d"),
        node(ending, "d", "out"),
    ]
    if len(x) > 1:
        nodes.insert(0, node("Flatten", "x", "f"))
    return model(nodes, weights(w1=(6, 3), b1=(3,), w2=(3, 6), b2=(6,)), ("N", *x))


def test_several_losses_are_summed_by_weight(tmp_path: Path) -> None:
    """One of them with ignored labels, so that its mean is over fewer; in uneven batches."""
    spec = several(
        f"{LABELS}\nweight = 0.5\nignored = -1",
        f"{NUMBERS}\nweight = 3",
        metrics=("loss", "loss:out", "loss:number", "accuracy", "rmse:number"),
    )
    plan = compiled(two_heads(), tmp_path, spec)
    assert [i.name for i in plan.manifest.inputs] == ["x", "label", "target"]
    rng = np.random.default_rng(1)
    x, target = rng.normal(size=(2, 150, 4)).astype(np.float32)
    target, label = target[:, :1], rng.integers(0, 3, 150)
    label[:40] = -1
    out = run(session(tmp_path / "plan" / "model.onnx"), {"x": x})
    of_label = cross_entropy(ignored=-1)(out["out"].astype(np.float64), label)
    of_number = float(((out["number"] - target) ** 2).mean())
    batch = Examples({"x": x, "label": label, "target": target})
    found = measured(plan, tmp_path, batch)
    right = out["out"].argmax(axis=1)[40:] == label[40:]
    assert found == pytest.approx(
        {
            "loss": 0.5 * of_label + 3 * of_number,
            "loss:out": of_label,
            "loss:number": of_number,
            "accuracy": right.mean(),
            "rmse:number": of_number**0.5,
        },
        rel=1e-5,
    )
    trainer = trainer_of(plan, tmp_path)
    first = trainer.step(batch)
    assert first == pytest.approx(0.5 * of_label + 3 * of_number, rel=1e-5)
    assert [trainer.step(batch) for _ in range(30)][-1] < first


@pytest.mark.parametrize("batch", [1, 7])
def test_gradients_of_several_losses(batch: int, tmp_path: Path) -> None:
    spec = several(
        f"{LABELS}\nweight = 0.5\nsmoothing = 0.1", NUMBERS, 'kind = "l1"\noutput = "number"'
    )
    gradients = Gradients(two_heads(), spec, tmp_path)
    examples = gradients.examples(batch)
    lowered = gradients.lowered(examples)
    gradients.check_differences(examples, lowered)
    for name, value in gradients.training_build(examples).items():
        close(lowered[name], value)


def test_a_chosen_weight_that_only_one_of_the_losses_needs(tmp_path: Path) -> None:
    """It is chosen for the whole task, not for each of its outputs."""
    spec = several(LABELS, NUMBERS)
    chosen = replace(spec, model=replace(spec.model, trained=("offset",)))
    nodes = [
        node("MatMul", "x w", "out"),
        node("Sub", "x offset", "a"),
        node("MatMul", "a v", "number"),
    ]
    values = weights(w=(4, 3), offset=(4,), v=(4, 1))
    made = model(nodes, values, ("N", 4), outputs=("out", "number"))
    plan = compiled(made, tmp_path, chosen)
    assert {p.name for p in plan.manifest.parameters} == {"w", "offset", "v"}


def test_one_loss_in_a_list_is_the_plan_of_one_table(tmp_path: Path) -> None:
    one = compiled(dense(), tmp_path, several('kind = "cross_entropy"'))
    assert one == compiled(dense(), tmp_path, task())
    assert compiled(dense(), tmp_path, task(more="weight = 2")) != one


def test_a_metric_looks_at_the_loss_that_names_its_output(tmp_path: Path) -> None:
    """Also where another loss, that it does not suit, takes the only output without saying so."""
    spec = several('kind = "l1"', LABELS, metrics=("mae", "accuracy:out"))
    plan = compiled(dense(), tmp_path, spec)
    assert [m.name for m in plan.manifest.metrics] == ["mae", "accuracy:out"]


def test_losses_share_a_label_that_suits_both(tmp_path: Path) -> None:
    spec = several('kind = "cross_entropy"', 'kind = "hinge"\nweight = 0.1')
    plan = compiled(dense(), tmp_path, spec)
    assert [i.name for i in plan.manifest.inputs] == ["x", "label"]
    spec = several(LABELS, f'{NUMBERS}\nlabel = "label"')
    refused(two_heads(), tmp_path, spec, "int64 [batch] below 3, and float32 [batch, 1]")


@pytest.mark.parametrize(
    ("loss", "ending"), [("mse", "Identity"), ("bce", "Sigmoid"), ("cosine", "Identity")]
)
def test_an_autoencoder_needs_its_input_only(loss: str, ending: str, tmp_path: Path) -> None:
    plan = compiled(autoencoder(ending), tmp_path, task(loss, more='label = "x"'))
    (entry,) = plan.manifest.inputs
    assert (entry.name, entry.shape) == ("x", (6,))
    x = np.random.default_rng(1).random((12, 6), np.float32)
    batch = Examples({"x": x})
    trainer = trainer_of(plan, tmp_path)
    losses = [trainer.step(batch) for _ in range(50)]
    assert losses[-1] < losses[0]
    metrics = measured(plan, tmp_path, batch)
    assert metrics["loss"] == pytest.approx(losses[0], rel=1e-5)


def test_an_input_that_the_output_does_not_need_may_be_the_target(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x w", "out"), node("Add", "out y", "other")]
    inputs = {"x": (FLOAT, ("N", 4)), "y": (FLOAT, ("N", 3))}
    made = model(nodes, weights(w=(4, 3)), inputs=inputs, outputs=("out", "other"))
    plan = compiled(made, tmp_path, task("mse", more='output = "out"\nlabel = "y"'))
    assert [i.name for i in plan.manifest.inputs] == ["x", "y"]


def test_inputs_that_cannot_be_targets(tmp_path: Path) -> None:
    refused(
        autoencoder(x=(2, 3)),
        tmp_path,
        task("mse", more='label = "x"'),
        "float32 [batch, 2, 3]",
        "needs float32 [batch, 6]",
        "they have as many elements: reshape the output",
    )
    refused(
        dense(),
        tmp_path,
        task("mse", more='label = "x"'),
        "float32 [batch, 4]",
        "needs float32 [batch, 3]",
        "choose another name",
    )
    refused(
        dense(),
        tmp_path,
        task(more='label = "x"'),
        "the model has an input of that name; choose another name for the labels",
        "that of 'cross_entropy' is not",
    )
    cast = [node("Cast", "x", "f", to=FLOAT), node("MatMul", "f w", "out")]
    whole = model(cast, weights(w=(4, 4)), inputs={"x": (INT64, ("N", 4))})
    refused(whole, tmp_path, task("mse", more='label = "x"'), "int64 [batch, 4]", "needs float32")
    refused(dense(), tmp_path, task("mse", more='label = "w1"'), "has a weight of that name")


@pytest.mark.parametrize(
    ("loss", "more", "needs"),
    [
        ("cross_entropy", "", "[batch, classes]"),
        ("cross_entropy", "axis = -1", "[batch, ..., classes]"),
        ("cosine", "", "[batch, length]"),
        ("contrastive", "", "[batch, length]"),
    ],
)
def test_outputs_of_one_number_that_do_not_suit(
    loss: str, more: str, needs: str, tmp_path: Path
) -> None:
    made = dense(classes=1)
    refused(made, tmp_path, task(loss, more=more), "output 'out' has the shape [batch, 1]", needs)


def test_outputs_that_are_no_decisions(tmp_path: Path) -> None:
    made = model([node("MatMul", "x w", "out")], weights(w=(4, 3)), ("N", 2, 4))
    refused(made, tmp_path, task("hinge"), "[batch, 2, 3]", "[batch, 1] or [batch, classes]")


def test_class_weights_of_another_number(tmp_path: Path) -> None:
    spec = task(more="class_weights = [1.0, 2.0]")
    refused(dense(), tmp_path, spec, "class_weights has 2 weights", "'out' 3 classes")


def test_a_metric_of_an_output_that_has_no_loss(tmp_path: Path) -> None:
    spec = task(metrics=("loss:other",))
    refused(dense(), tmp_path, spec, "'loss:other': the losses' outputs are 'out'")


@pytest.mark.parametrize(
    ("loss", "error"),
    [
        ('kind = "cross_entropy"\nclass_weights = [1.0, 0.0]', "loss.class_weights[1] = 0.0: expe"),
        ('kind = "cross_entropy"\nclass_weights = [1.0, -2]', "loss.class_weights[1] = -2: expec"),
        ('kind = "cross_entropy"\nclass_weights = [inf, 1]', "loss.class_weights = inf: must be f"),
        ('kind = "cross_entropy"\nignored = "none"', "loss.ignored = 'none': expected `int"),
        ('kind = "cross_entropy"\nignored = 1.5', "loss.ignored = 1.5: expected `int"),
        ('kind = "cross_entropy"\nsmoothing = 1.0', "loss.smoothing = 1.0: expected `float` < 1.0"),
        ('kind = "cross_entropy"\nsmoothing = -0.1', "loss.smoothing = -0.1: expected `float` >="),
        ('kind = "cross_entropy"\naxis = 2', "loss.axis = 2: expected one of 1, -1"),
        ('kind = "huber"\ndelta = 0', "loss.delta = 0: expected `float` > 0.0"),
        ('kind = "hinge"\nmargin = -1', "loss.margin = -1: expected `float` > 0.0"),
        ('kind = "mse"\nweight = -1', "loss.weight = -1: expected `float` > 0.0"),
        ('kind = "contrastive"\ntemperature = 0.0', "loss.temperature = 0.0: expected `float` >="),
        ('kind = "bce"\npositive_weight = nan', "loss.positive_weight = nan: expected"),
        ('kind = "mse"\ndelta = 1', "unknown key 'loss.delta'; allowed here: kind, output, weight"),
        ("", "missing key 'loss.kind'; expected one of 'cross_entropy', 'bce', 'mse', 'l1', "),
    ],
)
def test_bad_losses(loss: str, error: str) -> None:
    with pytest.raises(TaskFileError) as caught:
        parse(f"""
name = "test"
model = {{ file = "model.onnx" }}
[loss]
{loss}
[optimizer]
kind = "adamw"
[round]
goal = 2
""")
    assert error in str(caught.value), str(caught.value)


def test_a_contrastive_loss_needs_two_examples_at_once() -> None:
    with pytest.raises(TaskFileError, match=r"training\.batch = 1: at least 2"):
        parse("""
name = "test"
model = { file = "model.onnx" }
loss = { kind = "contrastive" }
optimizer = { kind = "adamw" }
training = { batch = 1 }
round = { goal = 2 }
""")


@pytest.mark.parametrize(
    ("losses", "metrics", "error"),
    [
        ([LABELS, 'kind = "mse"\nweight = 0'], ["loss"], "loss[1].weight = 0: expected `float` > "),
        ([LABELS, NUMBERS], ["rmse"], "'rmse' needs a loss of 'mse', 'l1', 'huber'; this is 'cr"),
        ([LABELS, NUMBERS], ["accuracy:number"], "'accuracy:number' needs a loss of 'cross_ent"),
        ([LABELS, NUMBERS], ["loss:no"], "'loss:no': the losses' outputs are 'out', 'number'"),
        (['kind = "cosine"'], ["top_5"], "'top_5' needs a loss of 'cross_entropy', 'hinge', 'sq"),
        (['kind = "contrastive"'], ["auc"], "'auc' needs a loss of 'cross_entropy', 'hinge', '"),
        ([LABELS], ["top_101"], "training.metrics[0] = 'top_101': expected loss, accuracy, top_5"),
        ([LABELS], ["loss:"], "training.metrics[0] = 'loss:': expected loss, accuracy, top_5"),
    ],
)
def test_bad_metrics(losses: list[str], metrics: list[str], error: str) -> None:
    with pytest.raises(TaskFileError) as caught:
        several(*losses, metrics=metrics)
    assert error in str(caught.value), str(caught.value)
