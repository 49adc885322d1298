"""A plan at work, against the same mathematics in NumPy."""

import math
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from edge_agent.session import (
    BadPlan,
    Diverged,
    Preempted,
    Progress,
    Trainer,
    open_session,
    train,
)
from tests.edge_agent.plans import (
    ADAMW,
    DROPOUT,
    FLOWERS,
    LINE,
    PROXIMAL,
    PROXIMAL_ADAMW,
    copied,
    flowers,
    manifest_of,
    points,
    weights_of,
)
from wire.checkpoint import Weights
from wire.plan import Metric, parse_manifest
from wire.rates import Cosine

MOMENTUM = 0.5  # of the tasks `flowers` and `proximal`
EACH_PLAN = pytest.mark.parametrize(
    ("plan", "examples"),
    [(FLOWERS, flowers()), (LINE, points()), (PROXIMAL, flowers())],
    ids=["flowers", "line", "proximal"],
)


def trainer_of(plan=FLOWERS, **changes) -> Trainer:
    return Trainer(manifest_of(plan, **changes), plan, weights_of(plan), threads=1)


def trained(plan=FLOWERS, examples=None, seed=1, stop=lambda: False, **changes):
    manifest = manifest_of(plan, **changes)
    trainer = trainer_of(plan, **changes)
    rng = np.random.default_rng(seed)
    return train(trainer, manifest, examples or flowers(), rng, stop)


def distance(delta: Weights) -> float:
    return math.sqrt(sum(float((change**2).sum()) for change in delta.values()))


# The reference


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def flowers_gradient(w: Weights, x: np.ndarray, label: np.ndarray) -> tuple[float, Weights]:
    """Mean cross-entropy of the perceptron, and its gradient."""
    hidden = x @ w["w1"] + w["b1"]
    active = np.maximum(hidden, 0)
    logs = log_softmax(active @ w["w2"] + w["b2"])
    each = np.arange(len(x))
    d_scores = np.exp(logs)
    d_scores[each, label] -= 1
    d_scores /= len(x)
    d_hidden = (d_scores @ w["w2"].T) * (hidden > 0)
    gradient = {
        "w1": x.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "w2": active.T @ d_scores,
        "b2": d_scores.sum(axis=0),
    }
    return float(-logs[each, label].mean()), gradient


def line_gradient(w: Weights, x: np.ndarray, target: np.ndarray) -> tuple[float, Weights]:
    """Mean squared error of the linear model, and its gradient."""
    error = x @ w["w1"] + w["b1"] - target
    d_out = 2 * error / error.size
    return float((error**2).mean()), {"w1": x.T @ d_out, "b1": d_out.sum(axis=0)}


class Reference:
    """SGD in NumPy, in float64, with the plan's proximal term."""

    def __init__(self, plan) -> None:
        self._gradient = line_gradient if plan == LINE else flowers_gradient
        self._momentum = 0.0 if plan == LINE else MOMENTUM
        self._mu = manifest_of(plan).mu
        self._rate = manifest_of(plan).learning_rate
        self.weights = {n: w.astype(np.float64) for n, w in weights_of(plan).items()}
        self._base = dict(self.weights)
        self._velocity = {n: np.zeros_like(w) for n, w in self.weights.items()}

    def step(self, batch: Examples) -> float:
        x, label = batch.arrays.values()
        loss, gradient = self._gradient(self.weights, x, label)
        for name, slope in gradient.items():
            slope += self._mu * (self.weights[name] - self._base[name])
            self._velocity[name] = self._momentum * self._velocity[name] + slope
            self.weights[name] = self.weights[name] - self._rate * self._velocity[name]
        return loss


def batches(examples: Examples, size: int) -> Iterator[Examples]:
    for start in range(0, len(examples), size):
        yield examples.where(np.arange(start, min(start + size, len(examples))))


# Steps


@EACH_PLAN
def test_each_step_is_that_of_the_reference(plan, examples):
    trainer, reference = trainer_of(plan), Reference(plan)
    for _ in range(2):
        for batch in batches(examples, 7):  # 7 divides neither 100 nor 60: the last is smaller
            assert trainer.step(batch) == pytest.approx(reference.step(batch), rel=1e-5, abs=1e-6)
            for name, found in trainer.weights().items():
                np.testing.assert_allclose(found, reference.weights[name], rtol=1e-5, atol=1e-6)


@EACH_PLAN
def test_the_delta_is_the_change_since_the_start(plan, examples):
    trainer, reference = trainer_of(plan), Reference(plan)
    for batch in batches(examples, 10):
        trainer.step(batch)
        reference.step(batch)
    start = weights_of(plan)
    for name, change in trainer.delta().items():
        expected = reference.weights[name] - start[name]
        np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-6)


def test_no_step_is_no_change():
    assert all(not change.any() for change in trainer_of().delta().values())


def test_a_batch_of_one_and_one_of_all_work():
    trainer, reference = trainer_of(), Reference(FLOWERS)
    for size in (1, 100, 3):
        batch = flowers().where(np.arange(size))
        assert trainer.step(batch) == pytest.approx(reference.step(batch), rel=1e-5)


def test_examples_that_are_not_in_one_piece_of_memory_work():
    arrays = {name: np.repeat(a, 2, axis=0)[::2] for name, a in flowers().arrays.items()}
    arrays["x"] = np.asfortranarray(arrays["x"])
    assert trainer_of().step(Examples(arrays)) == trainer_of().step(flowers())


def test_weights_are_copies_that_outlive_the_trainer():
    trainer = trainer_of()
    trainer.step(flowers())
    before = trainer.weights()
    kept = {n: w.copy() for n, w in before.items()}
    trainer.step(flowers())
    trainer.step(flowers())
    del trainer
    for name, weight in before.items():
        np.testing.assert_array_equal(weight, kept[name])


# Training


@pytest.mark.parametrize(("plan", "plain"), [(PROXIMAL, FLOWERS), (PROXIMAL_ADAMW, ADAMW)])
def test_a_proximal_term_keeps_a_device_near_its_base(plan, plain):
    near, far = trained(plan, epochs=20), trained(plain, epochs=20)
    assert 0 < distance(near.delta) < 0.5 * distance(far.delta)


def test_the_loss_told_is_without_the_proximal_term():
    examples = flowers(10)
    trainer = trainer_of(PROXIMAL)
    for _ in range(5):
        loss, _ = flowers_gradient(trainer.weights(), *examples.arrays.values())
        assert trainer.step(examples) == pytest.approx(loss, rel=1e-5)


def test_the_base_is_read_in_place_and_stays_as_it_is():
    """Also when its memory cannot be written to, as that of a checkpoint."""
    weights = weights_of(PROXIMAL)
    before = {name: weight.copy() for name, weight in weights.items()}
    trainer = Trainer(manifest_of(PROXIMAL), PROXIMAL, weights, threads=1)
    for name, value in trainer._bases.items():
        shared = weights[name.removeprefix("base/")]
        assert value.data_ptr() == shared.__array_interface__["data"][0]
        assert not shared.flags.writeable
    for _ in range(3):
        trainer.step(flowers())
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, before[name])


def test_a_plan_that_takes_a_base_but_does_not_say_so_is_bad():
    plain = msgspec.structs.replace(manifest_of(PROXIMAL), proximal=msgspec.UNSET)
    with pytest.raises(BadPlan, match="base/"):
        Trainer(plain, PROXIMAL, weights_of(PROXIMAL), threads=1)


@EACH_PLAN
def test_the_loss_falls(plan, examples):
    once = trained(plan, examples, epochs=1)
    longer = trained(plan, examples, epochs=20)
    assert longer.loss < 0.8 * once.loss


def test_the_model_learns_what_the_examples_say():
    found = trained(epochs=20)
    weights = {n: w + found.delta[n] for n, w in weights_of(FLOWERS).items()}
    metrics = evaluate(manifest_of(FLOWERS), FLOWERS, weights, flowers(seed=4), threads=1)
    assert metrics["accuracy"] > 0.9


def test_steps_and_examples_are_counted():
    found = trained(examples=flowers(95), epochs=3, batch=10)
    assert found.examples == 95
    assert found.steps == 3 * 10


def test_the_loss_told_is_the_mean_over_the_last_epoch():
    found = trained(LINE, points(60), epochs=1, batch=7, learning_rate=1e-12)
    loss, _ = line_gradient(weights_of(LINE), *points(60).arrays.values())
    assert found.loss == pytest.approx(loss, rel=1e-5)


def test_one_seed_is_one_result():
    first, second, other = trained(seed=1), trained(seed=1), trained(seed=2)
    for name in first.delta:
        np.testing.assert_array_equal(first.delta[name], second.delta[name])
    assert any((first.delta[n] != other.delta[n]).any() for n in first.delta)


@EACH_PLAN
def test_a_learning_rate_that_is_much_too_high_is_divergence(plan, examples):
    with pytest.raises(Diverged, match=r"finite|loss is"):
        trained(plan, examples, learning_rate=1e30)


def test_a_last_step_that_leaves_the_weights_not_finite_is_divergence():
    with pytest.raises(Diverged, match="is not finite"):
        trained(LINE, points(8), epochs=1, learning_rate=3e38)


def test_training_stops_after_the_running_batch():
    asked = iter([False, False, True])
    with pytest.raises(Preempted):
        trained(stop=lambda: next(asked))
    assert next(asked, None) is None


# Evaluation


@pytest.mark.parametrize("count", [1, 255, 256, 257, 700])
def test_the_metrics_are_those_of_the_reference(count):
    examples, weights = flowers(count), weights_of(FLOWERS)
    found = evaluate(manifest_of(FLOWERS), FLOWERS, weights, examples, threads=1)
    x, label = examples.arrays.values()
    loss, _ = flowers_gradient(weights, x, label)
    scores = np.maximum(x @ weights["w1"] + weights["b1"], 0) @ weights["w2"] + weights["b2"]
    right = float((scores.argmax(axis=1) == label).mean())
    assert found == {
        "loss": pytest.approx(loss, rel=1e-5),
        "accuracy": pytest.approx(right, abs=1e-6),
    }


@pytest.mark.parametrize("count", [1, 300])
def test_a_root_is_taken_over_all_examples_at_once(count):
    examples = points(count)
    found = evaluate(manifest_of(LINE), LINE, weights_of(LINE), examples, threads=1)
    loss, _ = line_gradient(weights_of(LINE), *examples.arrays.values())
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["rmse"] == pytest.approx(math.sqrt(loss), rel=1e-5)


def test_totals_of_another_shape_than_the_manifest_says_are_a_bad_plan():
    wrong = (Metric(name="loss", reduce="ratio", shape=(2, 1)),)
    with pytest.raises(BadPlan, match=r"metric/loss is \(\), not \(2, 1\)"):
        evaluate(manifest_of(LINE, metrics=wrong), LINE, weights_of(LINE), points(3), threads=1)


# Plans


@pytest.mark.parametrize("plan", [FLOWERS, LINE, ADAMW, DROPOUT, PROXIMAL, PROXIMAL_ADAMW])
def test_the_plans_here_are_whole(plan):
    manifest = parse_manifest((plan / "manifest.json").read_bytes())
    for name, file in manifest.files.items():
        assert (plan / name).stat().st_size == file.bytes


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "other"])
def test_a_graph_that_cannot_be_run_is_a_bad_plan(tmp_path, damage):
    path = copied(FLOWERS, tmp_path / "plan") / "train.onnx"
    if damage == "gone":
        path.unlink()
    else:
        content = {"empty": b"", "cut": path.read_bytes()[:-100], "other": b"hello" * 99}
        path.write_bytes(content[damage])
    with pytest.raises(BadPlan, match=r"train\.onnx cannot be run"):
        open_session(path, threads=1)


def test_what_is_wrong_with_a_graph_is_one_printable_line(tmp_path):
    path = copied(FLOWERS, tmp_path / "plan") / "train.onnx"
    path.write_bytes(path.read_bytes().replace(b"Gemm", b"\x1b[\nm"))
    with pytest.raises(BadPlan, match=r"train\.onnx cannot be run.* \[ m") as caught:
        open_session(path, threads=1)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("over", ["rounds", "steps"])
def test_a_training_that_goes_on_has_the_rates_it_would_have_had(over: str) -> None:
    schedule = Cosine(over=over, length=20 if over == "rounds" else None, warmup=3)
    manifest = manifest_of(FLOWERS, schedule=schedule, epochs=2)
    # In one go, and stopped after seven steps and gone on with by another trainer.
    deltas = []
    for stop_after in (None, 7):
        trainer, progress = Trainer(manifest, FLOWERS, weights_of(FLOWERS), threads=1), Progress()
        rng = np.random.default_rng(1)
        if stop_after is not None:
            with pytest.raises(Preempted):
                train(
                    *(trainer, manifest, flowers(), rng),
                    stop=lambda: trainer.steps == stop_after,  # noqa: B023
                    progress=progress,
                    version=11,
                )
            kept = {n: np.array(a) for n, a in trainer.state().items()}
            steps, first = trainer.steps, weights_of(FLOWERS)
            trainer = Trainer(manifest, FLOWERS, first, threads=1, kept=kept, steps=steps)
            rng = np.random.default_rng(9)
        args = (trainer, manifest, flowers(), rng, lambda: False, progress)
        deltas.append(train(*args, version=11).delta)
    plain = trained(epochs=2).delta
    for name, change in deltas[0].items():
        np.testing.assert_array_equal(deltas[1][name], change)
        assert np.abs(plain[name] - change).max() > 1e-4


def test_optimiser_state_has_one_buffer_and_weights_have_two() -> None:
    trainer = trainer_of(FLOWERS)
    before = {n: a.ctypes.data for n, a in trainer.state().items()}
    trainer.step(flowers(10))
    after = {n: a.ctypes.data for n, a in trainer.state().items()}
    moved = {n for n in before if before[n] != after[n]}
    assert moved == {p.name for p in manifest_of(FLOWERS).parameters}


def with_outside(plan, name, location, offset=0, length=4):
    """A graph of the plan, one of its constants lying in another file."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(plan / name, load_external_data=False)
    tensor = onnx.TensorProto(name="spy", data_type=1, dims=[1], data_location=1)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    graph.graph.initializer.append(tensor)
    (plan / name).write_bytes(graph.SerializeToString())
    return plan / name


@pytest.mark.parametrize("name", ["train.onnx", "evaluate.onnx", "model.onnx"])
@pytest.mark.parametrize("location", ["/etc/passwd", "../x", "checkpoint.safetensors", "link"])
def test_a_graph_reads_no_file_but_the_plans_own(tmp_path, name, location):
    """Weights may lie anywhere the runtime can read: a plan could send the owner's files home."""
    plan = copied(FLOWERS, tmp_path / "plan")
    (tmp_path / "x").write_bytes(b"private")
    (plan / "link").symlink_to(tmp_path / "x")
    path = with_outside(plan, name, location)
    with pytest.raises(BadPlan, match="which is no file of the plan"):
        open_session(path, threads=1)


def test_a_graph_reads_what_is_there_of_the_plans_own(tmp_path):
    plan = copied(FLOWERS, tmp_path / "plan")
    (plan / "frozen.bin").write_bytes(bytes(64))
    open_session(with_outside(plan, "train.onnx", "frozen.bin", 60), threads=1)
    plan = copied(FLOWERS, tmp_path / "other")
    (plan / "frozen.bin").write_bytes(bytes(64))
    with pytest.raises(BadPlan, match=r"ends at byte 68 of frozen\.bin, which has 64"):
        open_session(with_outside(plan, "train.onnx", "frozen.bin", 64), threads=1)
