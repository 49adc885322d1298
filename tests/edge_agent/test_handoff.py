"""A published model on its way to local programs, over compiled plans and real examples."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from edge_agent import session
from edge_agent.evaluation import evaluate
from edge_agent.handoff import hand_off, weights_of
from edge_agent.keeping import Decision, Offer, Why
from edge_agent.models import Tensor, open_model
from edge_agent.onnx_file import BadModel
from edge_agent.shelf import Shelf
from tests.edge_agent import plans
from tests.edge_agent.plans import FLOWERS, LINE, SCAFFOLD, copied, flowers, manifest_of
from wire import checkpoint
from wire.checkpoint import Weights
from wire.digest import digest_of
from wire.plan import CHECKPOINT_NAME

_, HELD_OUT = flowers().split(0.3)
NOW = "2026-07-01T12:00:00+02:00"


def trained(steps: int) -> Weights:
    """The weights of `FLOWERS` after so many steps: the more, the better."""
    trainer = session.Trainer(manifest_of(FLOWERS), FLOWERS, plans.weights_of(FLOWERS), threads=1)
    for _ in range(steps):
        trainer.step(flowers())
    return trainer.weights()


class Device:
    """A device that is offered models, and measures them over its examples."""

    def __init__(self, folder: Path, plan: Path = FLOWERS, **changes: object) -> None:
        self.shelf = Shelf(folder / "models" / "flowers")
        self.plan = plan
        self.manifest = manifest_of(plan, **changes)
        self.measured = 0

    def measure(self, weights: Weights) -> dict[str, float]:
        self.measured += 1
        return evaluate(self.manifest, self.plan, weights, HELD_OUT, threads=1)

    def offered(self, version: int, weights: Weights, held_out: bool = True) -> Decision:
        data = checkpoint.write(weights)
        offer = Offer(
            folder=str(self.shelf.folder),
            task="flowers",
            version=version,
            plan=self.manifest.digest(),
            model=digest_of(data),
            now=NOW,
        )
        metrics = self.measure(weights) if held_out else None
        count = len(HELD_OUT) if held_out else 0
        return hand_off(offer, self.plan, self.manifest, data, count, metrics, self.measure)

    def version(self) -> int | None:
        found = self.shelf.current()
        return found and found.version


@pytest.fixture
def device(tmp_path) -> Device:
    return Device(tmp_path)


def test_the_first_model_is_adopted_with_all_that_is_known_of_it(device):
    weights = trained(5)
    decision = device.offered(1, weights)
    assert (decision.keep, decision.why) == (True, Why.FIRST)
    info = device.shelf.current()
    assert info is not None
    assert info.inputs == (Tensor(name="x", dtype="float32", shape=("batch", 4)),)
    assert info.outputs[0].dtype == "float32"
    assert info.outputs[0].shape[1:] == (3,)
    assert (info.metric, info.held_out, info.adopted) == ("loss", len(HELD_OUT), NOW)
    assert info.value == evaluate(device.manifest, FLOWERS, weights, HELD_OUT, 1)["loss"]
    assert (info.opset, info.plan) == (device.manifest.opset, device.manifest.digest())


def test_local_programs_get_the_very_numbers_of_the_plan(device, tmp_path):
    weights = trained(5)
    device.offered(1, weights)
    plan = copied(FLOWERS, tmp_path / "plan")
    (plan / CHECKPOINT_NAME).write_bytes(checkpoint.write(weights))
    expected = ort.InferenceSession(str(plan / "model.onnx"))
    found = open_model("flowers", device.shelf.folder.parent).session()
    feed = {"x": HELD_OUT.arrays["x"]}
    np.testing.assert_array_equal(found.run(None, feed)[0], expected.run(None, feed)[0])


def test_a_better_model_takes_the_place_of_a_worse_one_and_not_the_other_way(device):
    bad, good = trained(2), trained(40)
    device.offered(1, bad)
    decision = device.offered(2, good)
    assert (decision.keep, decision.why, device.version()) == (True, Why.NOT_WORSE, 2)
    decision = device.offered(3, trained(3))
    assert (decision.keep, decision.why, device.version()) == (False, Why.WORSE, 2)
    assert "before" in decision.detail
    assert [r.version for r in device.shelf.refused()] == [3]


def test_the_one_before_is_measured_anew_over_the_same_examples(device):
    bad, good = trained(2), trained(40)
    device.offered(1, good)
    device.measured = 0
    figures = device.offered(2, bad).detail
    assert device.measured == 2
    before = evaluate(device.manifest, FLOWERS, good, HELD_OUT, 1)["loss"]
    assert f"before {before:.6g}" in figures


def test_what_was_refused_is_not_measured_against_again(device):
    device.offered(1, trained(40))
    device.offered(2, trained(2))
    device.measured = 0
    assert device.offered(3, trained(2)).why is Why.SET_ASIDE
    assert device.measured == 1  # by the test itself


def test_a_task_s_tolerance_lets_a_slightly_worse_one_pass(tmp_path):
    good, worse = trained(40), trained(38)
    strict = Device(tmp_path / "strict")
    strict.offered(1, good)
    assert strict.offered(2, worse).why is Why.WORSE
    mild = Device(tmp_path / "mild", tolerance=0.5)
    mild.offered(1, good)
    assert mild.offered(2, worse).why is Why.NOT_WORSE
    assert mild.version() == 2


def test_the_first_metric_decides(tmp_path):
    """38 steps and 40 tell all flowers apart, though the loss differs."""
    loss, accuracy = manifest_of(FLOWERS).metrics
    device = Device(tmp_path, metrics=(accuracy, loss))
    device.offered(1, trained(40))
    decision = device.offered(2, trained(38))
    assert (decision.why, decision.detail) == (Why.NOT_WORSE, "accuracy 1, before 1")


def test_without_held_out_examples_each_model_is_adopted(device):
    device.offered(1, trained(40), held_out=False)
    decision = device.offered(2, trained(2), held_out=False)
    assert (decision.keep, decision.why, device.version()) == (True, Why.NO_HOLD_OUT, 2)
    info = device.shelf.current()
    assert info is not None
    assert (info.value, info.held_out) == (None, 0)


def test_what_the_owner_went_back_from_is_not_adopted_again_but_what_follows_is(device):
    device.offered(1, trained(2))
    device.offered(2, trained(20))
    device.shelf.rollback(NOW)
    assert device.offered(2, trained(20)).why is Why.SET_ASIDE
    assert device.version() == 1
    assert device.offered(3, trained(30)).keep
    assert device.version() == 3


def test_a_model_of_another_shape_is_adopted(tmp_path):
    device = Device(tmp_path)
    device.offered(1, trained(40))
    other = Device(tmp_path, plan=LINE)
    other.measure = lambda weights: {"loss": 9.0, "rmse": 3.0}  # type: ignore[method-assign]
    assert other.offered(2, plans.weights_of(LINE)).why is Why.OTHER_MODEL
    assert other.version() == 2


def test_a_damaged_model_of_local_programs_is_replaced(device):
    device.offered(1, trained(40))
    data = bytearray(device.shelf.path.read_bytes())
    kernel = trained(40)["w1"].tobytes()
    at = data.index(kernel)
    data[at : at + len(kernel)] = np.full(len(kernel) // 4, np.nan, np.float32).tobytes()
    device.shelf.path.write_bytes(data)
    decision = device.offered(2, trained(2))
    assert (decision.keep, decision.why) == (True, Why.UNREADABLE)
    assert device.version() == 2


@pytest.mark.parametrize("content", [b"", b"hello", b"\x3a\x02\x0a\x00"])
def test_a_graph_that_cannot_be_opened_is_not_adopted(device, tmp_path, content):
    device.offered(1, trained(2))
    device.plan = copied(FLOWERS, tmp_path / "plan")
    (device.plan / "model.onnx").write_bytes(content)
    decision = device.offered(2, trained(40))
    assert (decision.keep, decision.why, device.version()) == (False, Why.FAILED, 1)
    assert sorted(f.name for f in device.shelf.folder.iterdir()) == ["current.json", "current.onnx"]


def test_a_model_that_cannot_be_run_over_these_examples_is_not_adopted(device):
    """Its predecessor is measured anew, over the examples of today."""
    device.offered(1, trained(2), held_out=False)
    measure = device.measure

    def once(weights: Weights) -> dict[str, float]:
        if device.measured:
            raise session.CannotRun("evaluate.onnx cannot be run: an index is out of bounds")
        return measure(weights)

    device.measure = once
    decision = device.offered(2, trained(40))
    assert (decision.keep, decision.why, device.version()) == (False, Why.FAILED, 1)
    assert "out of bounds" in decision.detail


def test_a_place_that_cannot_be_written_is_a_decision(device):
    device.shelf.folder.parent.mkdir()
    device.shelf.folder.write_text("a file where the folder should be")
    decision = device.offered(1, trained(2))
    assert (decision.keep, decision.why) == (False, Why.FAILED)


def test_frozen_weights_are_inside_too(tmp_path):
    onnx = pytest.importorskip("onnx")
    plan = copied(FLOWERS, tmp_path / "plan")
    model = onnx.load(plan / "model.onnx", load_external_data=False)
    frozen = onnx.numpy_helper.from_array(np.float32([[5, 6, 7]]), "frozen")
    onnx.external_data_helper.set_external_data(frozen, "frozen.bin", offset=64, length=12)
    frozen.ClearField("raw_data")
    model.graph.initializer.append(frozen)
    last = model.graph.output[0].name
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.append(onnx.helper.make_node("Add", ["scores", "frozen"], [last]))
    (plan / "model.onnx").write_bytes(model.SerializeToString())
    (plan / "frozen.bin").write_bytes(bytes(64) + np.float32([5, 6, 7]).tobytes())
    files = manifest_of(plan).files
    device = Device(tmp_path, plan, files=files | {"frozen.bin": files["model.onnx"]})
    assert device.offered(1, trained(5)).keep
    for file in plan.iterdir():
        file.unlink()
    (zeros,) = (
        open_model("flowers", device.shelf.folder.parent)
        .session()
        .run(None, {"x": np.zeros((1, 4), np.float32)})
    )
    w = trained(5)
    plain = np.maximum(w["b1"], 0) @ w["w2"] + w["b2"]
    np.testing.assert_allclose(zeros[0], plain + np.float32([5, 6, 7]), rtol=1e-5)


def test_what_is_given_beside_the_weights_stands_in_nobodys_way(tmp_path):
    """Programs get the model alone; and the one they have can still be measured."""
    device = Device(tmp_path, SCAFFOLD)
    weights = plans.weights_of(SCAFFOLD)
    assert device.offered(1, weights).keep
    path = device.shelf.path
    assert b"control/" not in path.read_bytes()
    measured = device.measured
    assert (
        device.offered(2, weights | {"b2": weights["b2"] + np.float32(1e-3)}).why is not Why.FAILED
    )
    assert device.measured == measured + 2, "it was not compared with the model they have"


def test_the_weights_are_read_back_from_a_complete_model(device):
    weights = trained(5)
    device.offered(1, weights)
    graph = (FLOWERS / "model.onnx").read_bytes()
    like = (FLOWERS / CHECKPOINT_NAME).read_bytes()
    found = weights_of(device.shelf.path.read_bytes(), graph, like)
    assert found == checkpoint.write(weights)
    with pytest.raises(BadModel, match="not where the plan has it"):
        weights_of(graph, graph, like)
