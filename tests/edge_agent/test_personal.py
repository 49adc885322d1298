"""A published model made a device's own, against the same mathematics in NumPy."""

import msgspec
import numpy as np
import pytest

from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from edge_agent.personal import tune
from edge_agent.session import BadPlan, Diverged, Preempted
from tests.edge_agent.plans import FLOWERS, PERSONAL, copied, flowers, manifest_of, weights_of
from tests.edge_agent.test_session import flowers_gradient
from wire.checkpoint import Weights
from wire.plan import Draw, Personal

MOMENTUM, RATE = 0.5, 0.2  # of the task `personal`


def tuned(plan=PERSONAL, weights=None, examples=None, seed=1, stop=lambda: False, **changes):
    return tune(
        manifest_of(plan, **changes),
        plan,
        weights_of(plan) if weights is None else weights,
        examples or flowers(),
        flowers(40, seed=5),
        threads=1,
        seed=seed,
        stop=stop,
    )


def personal(**changes) -> Personal:
    found = manifest_of(PERSONAL).tuning
    assert found is not None
    return msgspec.structs.replace(found, **changes)


def mislabelled() -> Examples:
    """What teaches nothing that is so."""
    arrays = flowers().arrays
    return Examples({"x": arrays["x"], "label": (arrays["label"] + 1) % 3})


def reference(epochs: int, seed: int) -> Weights:
    """SGD with momentum on the last layer alone, in float64."""
    weights = {n: w.astype(np.float64) for n, w in weights_of(PERSONAL).items()}
    velocity = {n: np.zeros_like(weights[n]) for n in ("w2", "b2")}
    examples, rng = flowers(), np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(examples))
        for start in range(0, len(order), 10):
            batch = examples.where(order[start : start + 10]).arrays
            _, gradient = flowers_gradient(weights, batch["x"], batch["label"])
            for name, now in velocity.items():
                velocity[name] = MOMENTUM * now + gradient[name]
                weights[name] = weights[name] - RATE * velocity[name]
    return weights


def test_it_is_so_many_passes_over_the_chosen_weights():
    found = tuned(personal=personal(epochs=2)).weights
    expected = reference(2, seed=1)
    assert found.keys() == expected.keys()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)
    assert (found["w1"] == weights_of(PERSONAL)["w1"]).all()


def test_both_versions_are_measured_on_the_held_out_examples():
    found = tuned()
    manifest, held_out = manifest_of(PERSONAL), flowers(40, seed=5)
    first = evaluate(manifest, PERSONAL, weights_of(PERSONAL), held_out, threads=1)
    own = evaluate(manifest, PERSONAL, found.weights, held_out, threads=1)
    assert (found.published, found.metrics) == (first, own)
    assert found.better
    assert own["loss"] < first["loss"]


def test_the_published_weights_stay_as_they_are():
    weights = weights_of(PERSONAL)
    before = {name: values.copy() for name, values in weights.items()}
    tuned(weights=weights)
    assert all((weights[name] == before[name]).all() for name in before)


def test_one_seed_gives_one_version():
    first, again, other = tuned(seed=1), tuned(seed=1), tuned(seed=2)
    assert (first.weights["w2"] == again.weights["w2"]).all()
    assert (first.weights["w2"] != other.weights["w2"]).any()


def test_it_is_better_only_when_it_is_strictly_so():
    still = personal(learning_rate=1e-30)
    assert tuned(personal=still).metrics == tuned(personal=still).published
    assert not tuned(personal=still).better


def test_the_first_metric_decides_whichever_way_it_goes():
    loss, accuracy = manifest_of(PERSONAL).metrics
    for metrics in ((loss, accuracy), (accuracy, loss)):
        assert tuned(metrics=metrics).better
        worse = tuned(examples=mislabelled(), metrics=metrics)
        assert worse.metrics["loss"] > worse.published["loss"]
        assert worse.metrics["accuracy"] < worse.published["accuracy"]
        assert not worse.better


def test_a_version_that_is_not_finite_is_none():
    large = Examples({**flowers().arrays, "x": flowers().arrays["x"] * np.float32(1e30)})
    with pytest.raises(Diverged):
        tuned(examples=large, personal=personal(learning_rate=1e30))


def test_it_stops_after_the_running_batch():
    asked = iter([False, False, True])
    with pytest.raises(Preempted):
        tuned(stop=lambda: next(asked))
    assert next(asked, None) is None


def test_a_plan_without_it_has_no_personal_models():
    with pytest.raises(ValueError, match="asks for no personal models"):
        tuned(FLOWERS)


def test_a_graph_that_takes_what_the_manifest_does_not_name_is_a_bad_plan(tmp_path):
    plan = copied(PERSONAL, tmp_path / "plan")
    with pytest.raises(BadPlan, match=r"personal\.onnx takes 'velocity"):
        tuned(plan, personal=personal(state=()))


def test_a_graph_that_does_not_take_what_the_manifest_names_is_a_bad_plan():
    with pytest.raises(BadPlan, match=r"personal\.onnx does not take 'noise'"):
        tuned(PERSONAL, personal=personal(draws=(Draw(name="noise", shape=(2,)),)))
