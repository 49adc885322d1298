"""A model and a task for every loss, and what the loss is, written out in NumPy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from coordinator.taskfile import TaskFile
from tests.coordinator.compiler.building import dense, model, node, task, weights

Arrays = Mapping[str, np.ndarray]
Reference = Callable[[np.ndarray, np.ndarray], float]
"""The mean loss, from the model's output and the labels of all examples."""


def log_softmax(x: np.ndarray, axis: int = 1) -> np.ndarray:
    shifted = x - x.max(axis=axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True)))


def cross_entropy(
    weights: Sequence[float] = (), ignored: int | None = None, smoothing: float = 0.0, axis: int = 1
) -> Reference:
    """Place by place, as the text of PyTorch's documentation has it."""

    def mean(x: np.ndarray, label: np.ndarray) -> float:
        x = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
        total = divisor = 0.0
        for log_p, y in zip(log_softmax(x), label.ravel(), strict=True):
            if y == ignored:
                continue
            w = np.asarray(weights or [1.0] * x.shape[1])
            total -= (1 - smoothing) * w[y] * log_p[y] + smoothing / len(w) * (w * log_p).sum()
            divisor += w[y]
        return float(total / divisor) if divisor else 0.0

    return mean


def bce(p: float = 1.0) -> Reference:
    def mean(x: np.ndarray, t: np.ndarray) -> float:
        yes, no = -np.logaddexp(0, -x), -np.logaddexp(0, x)
        return float(-(p * t * yes + (1 - t) * no).mean())

    return mean


def huber(delta: float) -> Reference:
    def mean(x: np.ndarray, t: np.ndarray) -> float:
        e = np.abs(x - t)
        return float(np.where(e <= delta, e**2 / 2, delta * (e - delta / 2)).mean())

    return mean


def hinge(margin: float, power: int) -> Reference:
    """One-vs-rest: for each class, its examples against all others."""

    def mean(x: np.ndarray, label: np.ndarray) -> float:
        x = x.reshape(len(x), -1)
        classes = [1] if x.shape[1] == 1 else range(x.shape[1])
        total = 0.0
        for column, c in enumerate(classes):
            y = np.where(label == c, 1, -1)
            total += (np.maximum(0, margin - y * x[:, column]) ** power).mean()
        return float(total)

    return mean


def cosine(x: np.ndarray, t: np.ndarray) -> float:
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(t, axis=1)
    return float((1 - (x * t).sum(axis=1) / lengths).mean())


def contrastive(temperature: float) -> Reference:
    def mean(x: np.ndarray, label: np.ndarray) -> float:
        z = x / np.linalg.norm(x, axis=1, keepdims=True)
        found = []
        for i in range(len(z)):
            others = [a for a in range(len(z)) if a != i]
            alike = [p for p in others if label[p] == label[i]]
            if alike:
                every = np.log(sum(np.exp(z[i] @ z[a] / temperature) for a in others))
                found.append(-np.mean([z[i] @ z[p] / temperature - every for p in alike]))
        return float(np.mean(found)) if found else 0.0

    return mean


def flat(classes: int = 1) -> onnx.ModelProto:
    """An output without a second axis."""
    nodes = [node("MatMul", "x w", "h"), node("Squeeze", "h axes", "out")]
    return model(nodes, {**weights(w=(4, classes)), "axes": np.array([1])})


def image() -> onnx.ModelProto:
    """Three classes at each of 2 x 3 places: [batch, classes, 2, 3]."""
    nodes = [node("Conv", "x w b", "h"), node("Tanh", "h", "t"), node("Conv", "t v c", "out")]
    values = weights(w=(4, 2, 1, 1), b=(4,), v=(3, 4, 1, 1), c=(3,))
    return model(nodes, values, ("N", 2, 2, 3))


def words() -> onnx.ModelProto:
    """Three classes after each of five words, the classes last: [batch, 5, classes]."""
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("MatMul", "t v", "out")]
    return model(nodes, weights(w=(4, 6), v=(6, 3)), ("N", 5, 4))


@dataclass(frozen=True)
class Case:
    """A loss at work. `by_batch`: its mean depends on which examples are together."""

    kind: str
    reference: Reference
    more: str = ""
    build: Callable[[], onnx.ModelProto] = dense
    by_batch: bool = False
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def task(self, **kwargs: Any) -> TaskFile:
        """The task, with these changes."""
        return task(self.kind, more=self.more, **{**self.kwargs, **kwargs})


WEIGHTS = (0.5, 2.0, 1.25)
CASES: dict[str, Case] = {
    "cross_entropy": Case("cross_entropy", cross_entropy()),
    "cross_entropy, weights": Case(
        "cross_entropy", cross_entropy(WEIGHTS), f"class_weights = {list(WEIGHTS)}"
    ),
    "cross_entropy, ignored class": Case("cross_entropy", cross_entropy(ignored=2), "ignored = 2"),
    "cross_entropy, ignored number": Case(
        "cross_entropy", cross_entropy(ignored=-100), "ignored = -100"
    ),
    "cross_entropy, ignored from the end": Case(
        "cross_entropy", cross_entropy(ignored=-1), "ignored = -1"
    ),
    "cross_entropy, smoothing": Case(
        "cross_entropy", cross_entropy(smoothing=0.2), "smoothing = 0.2"
    ),
    "cross_entropy, all of it": Case(
        "cross_entropy",
        cross_entropy(WEIGHTS, 1, 0.1),
        f"class_weights = {list(WEIGHTS)}\nignored = 1\nsmoothing = 0.1",
    ),
    "cross_entropy of an image": Case("cross_entropy", cross_entropy(), build=image),
    "cross_entropy of an image, all of it": Case(
        "cross_entropy",
        cross_entropy(WEIGHTS, -100, 0.1),
        f"class_weights = {list(WEIGHTS)}\nignored = -100\nsmoothing = 0.1",
        image,
    ),
    "cross_entropy of words": Case("cross_entropy", cross_entropy(axis=-1), "axis = -1", words),
    "cross_entropy of words, all of it": Case(
        "cross_entropy",
        cross_entropy(WEIGHTS, 0, 0.1, axis=-1),
        f"axis = -1\nclass_weights = {list(WEIGHTS)}\nignored = 0\nsmoothing = 0.1",
        words,
    ),
    "bce": Case("bce", bce()),
    "bce, positive weight": Case("bce", bce(3.5), "positive_weight = 3.5"),
    "bce of one": Case("bce", bce(), build=flat),
    "mse": Case("mse", lambda x, t: float(((x - t) ** 2).mean())),
    "l1": Case("l1", lambda x, t: float(np.abs(x - t).mean())),
    "huber": Case("huber", huber(0.5), "delta = 0.5"),
    "hinge": Case("hinge", hinge(1.0, 1)),
    "hinge of one": Case("hinge", hinge(0.75, 1), "margin = 0.75", lambda: dense(classes=1)),
    "hinge of one, flat": Case("hinge", hinge(1.0, 1), build=flat),
    "squared_hinge": Case("squared_hinge", hinge(1.5, 2), "margin = 1.5"),
    "squared_hinge of one": Case("squared_hinge", hinge(1.0, 2), build=lambda: dense(classes=1)),
    "cosine": Case("cosine", cosine),
    "contrastive": Case("contrastive", contrastive(0.1), by_batch=True),
    "contrastive, warmer": Case(
        "contrastive", contrastive(0.7), "temperature = 0.7", by_batch=True
    ),
}
