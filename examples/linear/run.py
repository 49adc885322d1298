"""One set of examples: the fleet's model beside scikit-learn's own, and beside devices alone."""

from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from msgspec.structs import replace
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from coordinator import taskfile
from coordinator.export import complete_model
from coordinator.taskfile import StatisticsFile
from edge_agent.examples import Examples
from examples.linear import FOLDER, models
from examples.linear.data import SETS, Dealt
from examples.plans import compiled, training_task
from fleet.simulation import Devices, Result, simulate
from wire import checkpoint
from wire.tensors import Array


@dataclass(frozen=True)
class Found:
    """Figures on the same test rows: accuracy, or the RMSE where that is the set's measure.

    `federated` is that of scikit-learn's own estimator with the coefficients that the fleet learnt.
    `alone` is the median over devices that fit by themselves.
    """

    metric: str
    federated: float
    centralised: float
    alone: float
    result: Result


def run(name: str, folder: Path, *, seed: int, workers: int | None) -> Found:
    """Make one set's comparison; `folder` is for the plans and the model. Raises what `simulate`
    raises."""
    dealt = SETS[name](seed)
    mean, variance = _moments(dealt, folder, seed, workers)
    pipeline = models.untrained(name, dealt.y, mean, variance)
    task = training_task(FOLDER / f"{name}.toml")
    onnx.save(models.exported(pipeline, dealt.x), folder / task.model.file)
    if name == "diabetes":
        wanted = {"target": dealt.y.astype(np.float32)[:, None]}
    else:
        wanted = {"label": dealt.y.astype(np.int64)}
    pool = Examples({"X": dealt.x, **wanted})
    result = simulate(
        task,
        compiled(task, folder, folder).plan,
        Devices(pool=pool, shares=dealt.shares),
        test=pool.where(dealt.test),
        seed=seed,
        workers=workers,
    )
    federated = models.learnt(pipeline, result.weights)
    return Found(
        metric=str(task.training.metrics[0]),
        federated=_score(federated, dealt),
        centralised=_score(_fitted(name, dealt, dealt.all), dealt),
        alone=median(_score(_fitted(name, dealt, rows), dealt) for rows in dealt.shares),
        result=result,
    )


def _moments(dealt: Dealt, folder: Path, seed: int, workers: int | None) -> tuple[Array, Array]:
    """(mean, variance) of each feature over all devices, by two rounds of the fleet's own."""
    found = taskfile.load(FOLDER / "features.toml")
    assert isinstance(found, StatisticsFile)
    task = replace(found, statistics=replace(found.statistics, shape=dealt.x.shape[1:]))
    plan = compiled(task, folder, folder).plan
    devices = Devices(pool=Examples({"X": dealt.x}), shares=dealt.shares)
    weights = simulate(task, plan, devices, seed=seed, workers=workers, evaluate_every=0).weights
    model = complete_model((plan / "model.onnx").read_bytes(), checkpoint.write(weights), None)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    mean, variance = session.run(["mean", "variance"], {"X": dealt.x[:1]})
    return mean, variance


def _fitted(name: str, dealt: Dealt, rows: Array) -> Any:
    """scikit-learn's own fit of these rows; of a single class, that it is always this one."""
    one = name != "diabetes" and len(np.unique(dealt.y[rows])) < 2
    estimator = DummyClassifier() if one else clone(models.ESTIMATORS[name])
    return make_pipeline(StandardScaler(), estimator).fit(dealt.x[rows], dealt.y[rows])


def _score(fitted: Any, dealt: Dealt) -> float:
    """Accuracy, or the RMSE of a regression, on the test rows."""
    told, truth = fitted.predict(dealt.x[dealt.test]), dealt.y[dealt.test]
    if isinstance(fitted[-1], LinearRegression):
        return float(np.sqrt(np.mean((told - truth) ** 2)))
    return float(np.mean(told == truth))
