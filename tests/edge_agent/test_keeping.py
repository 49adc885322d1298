"""Whether a new model is kept: pure decisions."""

import math

import pytest

from edge_agent.keeping import Offer, Refused, Why, compare, foregone
from tests.edge_agent import local_models
from tests.edge_agent.plans import FLOWERS, LINE, manifest_of
from wire.digest import digest_of
from wire.plan import Metric

MANIFEST = manifest_of(LINE)
LOSS = Metric(name="loss")
ACCURACY = Metric(name="accuracy", better="higher")


def offer(version: int) -> Offer:
    return Offer(
        folder="/nowhere/line",
        task="line",
        version=version,
        plan=MANIFEST.digest(),
        model=digest_of(local_models.weights(version)),
        now=local_models.NOW,
    )


def decided(new=0.5, kept=None, refused=(), manifest=MANIFEST):
    found = foregone(offer(2), manifest, new, kept, refused)
    return found and (found.keep, found.why)


def test_the_first_model_is_kept():
    assert decided() == (True, Why.FIRST)
    assert decided(new=None) == (True, Why.FIRST)


def test_models_of_one_graph_are_compared():
    assert decided(kept=local_models.info(1)) is None


def test_models_are_compared_also_when_only_the_way_they_are_trained_has_changed():
    assert decided(kept=local_models.info(1, plan="sha256:" + "0" * 64)) is None


def test_a_model_of_another_graph_is_kept():
    kept = local_models.info(1, graph=manifest_of(FLOWERS).files["model.onnx"].digest)
    assert decided(kept=kept) == (True, Why.OTHER_MODEL)


def test_a_model_is_kept_where_none_can_be_measured():
    assert decided(new=None, kept=local_models.info(1)) == (True, Why.NO_HOLD_OUT)


@pytest.mark.parametrize("new", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_no_number_is_refused(new):
    assert decided(new=new) == (False, Why.NOT_FINITE)
    assert decided(new=new, kept=local_models.info(1)) == (False, Why.NOT_FINITE)


def test_what_local_programs_have_is_not_adopted_again():
    assert decided(kept=local_models.info(2)) == (False, Why.THE_SAME)


def test_what_was_refused_once_is_not_tried_again():
    before = Refused(
        version=2, model=offer(2).model, why=Why.WORSE, detail="loss 2, before 1", when="today"
    )
    assert decided(kept=local_models.info(1), refused=[before]) == (False, Why.SET_ASIDE)
    assert decided(refused=[before]) == (False, Why.SET_ASIDE)


@pytest.mark.parametrize(
    ("metric", "tolerance", "new", "old", "keep"),
    [
        (LOSS, 0.0, 0.5, 0.5, True),
        (LOSS, 0.0, 0.4, 0.5, True),
        (LOSS, 0.0, 0.5000001, 0.5, False),
        (LOSS, 0.1, 0.6, 0.5, True),
        (LOSS, 0.1, 0.61, 0.5, False),
        (ACCURACY, 0.0, 0.9, 0.9, True),
        (ACCURACY, 0.0, 0.91, 0.9, True),
        (ACCURACY, 0.0, 0.89, 0.9, False),
        (ACCURACY, 0.01, 0.89, 0.90, True),  # 0.90 - 0.89 is more than 0.01 in binary
        (ACCURACY, 0.01, 0.88, 0.90, False),
        (LOSS, 0.0, 3.0, math.inf, True),
        (LOSS, 0.0, 3.0, math.nan, True),
        (ACCURACY, 0.0, 0.1, math.nan, True),
    ],
)
def test_the_tolerance_is_in_the_metric_s_own_unit(metric, tolerance, new, old, keep):
    decision = compare(metric, tolerance, new, old)
    assert (decision.keep, decision.why) == (keep, Why.NOT_WORSE if keep else Why.WORSE)
    assert f"{metric.name} {new:.6g}, before {old:.6g}" in decision.detail


def test_a_model_that_cannot_be_measured_any_more_is_replaced():
    decision = compare(LOSS, 0.0, 3.0, None)
    assert (decision.keep, decision.why) == (True, Why.UNREADABLE)
