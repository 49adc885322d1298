"""scikit-learn's estimators, to and from the fleet."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from skl2onnx import to_onnx
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from wire.tensors import Array

ESTIMATORS: Mapping[str, Any] = {
    "diabetes": LinearRegression(),
    "cancer": LogisticRegression(max_iter=1000),
    "digits": LinearSVC(max_iter=10_000),
}


def untrained(name: str, y: Array, mean: Array, variance: Array) -> Pipeline:
    """The set's estimator with all coefficients 0, after a scaler of these moments: what a fleet
    starts from. `y` says which classes there are."""
    features = mean.size
    scaler = StandardScaler()
    scaler.mean_, scaler.var_ = mean.astype(np.float64), variance.astype(np.float64)
    scaler.scale_ = np.sqrt(np.where(variance > 0, variance, 1.0)).astype(np.float64)
    scaler.n_features_in_, scaler.n_samples_seen_ = features, 1
    estimator = ESTIMATORS[name].__class__(**ESTIMATORS[name].get_params())
    estimator.n_features_in_ = features
    if name == "diabetes":
        estimator.coef_, estimator.intercept_ = np.zeros(features), 0.0
    else:
        estimator.classes_ = np.unique(y)
        rows = 1 if estimator.classes_.size == 2 else estimator.classes_.size
        estimator.coef_, estimator.intercept_ = np.zeros((rows, features)), np.zeros(rows)
    return make_pipeline(scaler, estimator)


def exported(pipeline: Pipeline, x: Array) -> onnx.ModelProto:
    """As skl2onnx writes it, for features like `x`."""
    # Of its own accord skl2onnx asks for an option that it has not got for LinearSVC in a pipeline.
    own = {"zipmap": False} if isinstance(pipeline[-1], LogisticRegression) else {}
    options = {id(pipeline[-1]): own}
    model: onnx.ModelProto = to_onnx(pipeline, x[:1], options=options, target_opset=17)
    return model


def learnt(pipeline: Pipeline, weights: Mapping[str, Array]) -> Pipeline:
    """The same estimator with what the fleet has learnt, for scikit-learn's own `predict`.

    The plan has a row of coefficients for each class; of two, scikit-learn keeps their difference.
    """
    estimator = pipeline[-1]
    matrix, bias = (value.astype(np.float64) for value in weights.values())
    if len(bias) == 2:
        matrix, bias = matrix[1:] - matrix[:1], bias[1:] - bias[:1]
    estimator.coef_ = matrix.reshape(np.shape(estimator.coef_))
    estimator.intercept_ = bias.reshape(np.shape(estimator.intercept_))
    return pipeline
