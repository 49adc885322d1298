"""scikit-learn's linear models, to the fleet and back."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from examples.linear import models
from examples.linear.__main__ import app
from examples.linear.data import DEVICES, SETS
from examples.linear.run import run


@pytest.mark.parametrize("name", SETS)
def test_no_row_is_on_two_devices_nor_in_the_test(name: str) -> None:
    dealt = SETS[name](3)
    rows = np.concatenate([dealt.all, dealt.test])
    assert np.array_equal(np.sort(rows), np.arange(len(dealt.y)))
    assert len(dealt.shares) == DEVICES
    assert min(map(len, dealt.shares)) > 0


@pytest.mark.parametrize("name", SETS)
def test_an_untrained_estimator_is_written_as_it_predicts(name: str) -> None:
    """With some coefficients put in as the fleet would."""
    dealt = SETS[name](1)
    rng = np.random.default_rng(2)
    mean, variance = dealt.x.mean(0), dealt.x.var(0)
    pipeline = models.untrained(name, dealt.y, mean, variance)
    assert not np.any(pipeline[-1].coef_)
    rows = 1 if name == "diabetes" else len(np.unique(dealt.y))
    weights = {"coefficients": rng.normal(size=(rows, mean.size)), "intercepts": np.ones(rows)}
    learnt = models.learnt(pipeline, weights)
    model = models.exported(learnt, dealt.x).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    told = session.run(None, {"X": dealt.x[:50]})[0]
    expected = learnt.predict(dealt.x[:50])
    np.testing.assert_allclose(told.ravel(), expected, rtol=1e-3, atol=1e-3)


def test_of_two_classes_the_difference_is_kept() -> None:
    pipeline = models.untrained("cancer", np.array([0, 1]), np.zeros(2), np.ones(2))
    weights = {"coefficients": np.array([[1.0, 2.0], [4.0, 3.0]]), "intercepts": np.array([1.0, 3])}
    learnt = models.learnt(pipeline, weights)[-1]
    assert learnt.coef_.tolist() == [[3.0, 1.0]]
    assert learnt.intercept_.tolist() == [2.0]


def test_a_fleet_is_nearly_as_good_as_all_data_in_one_place(tmp_path: Path) -> None:
    found = run("cancer", tmp_path, seed=2, workers=0)
    assert found.federated > found.centralised - 0.03
    assert found.federated > found.alone
    assert found.result.versions[-1].test["accuracy"] == pytest.approx(found.federated)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = CliRunner().invoke(app, ["-o", str(tmp_path / "file" / "results")])
    assert done.exit_code == 2
    assert "error:" in done.stderr
    assert "Traceback" not in done.output
