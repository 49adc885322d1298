"""SCAFFOLD over a fleet: the published algorithm, to five digits, and what it is for."""

from pathlib import Path

import numpy as np
import onnx

from coordinator.taskfile import TaskFile, parse
from tests.coordinator.compiler.building import model, node, weights
from tests.fleet.federation import Arrays, Fleet

RATE = 0.1
EXACT = "[upload]\ncodec = 'float32'"
FEATURES = 6


def task(
    kind: str, *, loss: str = "mse", rate: float = RATE, epochs: int = 5, batch: int = 64, rest=""
) -> TaskFile:
    return parse(
        f"""
        name = "skewed"
        [model]
        file = "model.onnx"
        [loss]
        kind = "{loss}"
        [optimizer]
        kind = "sgd"
        learning_rate = {rate}
        [training]
        epochs = {epochs}
        batch = {batch}
        [round]
        goal = 2
        [aggregation]
        kind = "{kind}"
        {rest}
        """
    )


def scaffold(devices: int, more: str = "", upload: str = EXACT, **keys) -> TaskFile:
    mine = f"devices = {devices}\nmax_steps = 100\nby = 'uniform'\n{more}\n{upload}"
    return task("scaffold", rest=mine, **keys)


def fedavg(**keys) -> TaskFile:
    return task("fedavg", rest=f"by = 'uniform'\n{EXACT}", **keys)


def linear(outputs: int = 1, features: int = FEATURES) -> onnx.ModelProto:
    values = weights(w=(features, outputs), b=(outputs,))
    return model([node("Gemm", "x w b", "out")], values, ("N", features))


def lines(devices: int) -> list[Arrays]:
    """Each device has a plane of its own, and examples where the others have few."""
    rng = np.random.default_rng(5)
    found = []
    for _ in range(devices):
        x = rng.normal(size=(20, FEATURES)) * rng.uniform(0.2, 1.5, FEATURES)
        y = x @ rng.normal(size=(FEATURES, 1)) + rng.normal()
        found.append({"x": x.astype(np.float32), "target": y.astype(np.float32)})
    return found


class Published:
    """Algorithm 1 of the paper with option II, in float64, on linear models by full batches."""

    def __init__(self, examples: list[Arrays], start: np.ndarray, server_rate: float) -> None:
        ones = [np.ones((len(e["x"]), 1)) for e in examples]
        self.data = [
            (np.hstack([e["x"], one]).astype("f8"), e["target"].astype("f8"))
            for e, one in zip(examples, ones, strict=True)
        ]
        self.x = start.astype("f8")
        self.c = np.zeros_like(self.x)
        self.own = [np.zeros_like(self.x) for _ in examples]
        self.server_rate = server_rate

    def gradient(self, device: int, y: np.ndarray) -> np.ndarray:
        a, b = self.data[device]
        return 2 * a.T @ (a @ y - b) / len(a)

    def round(self, chosen: list[int], steps: int) -> None:
        moves, changes = [], []
        for i in chosen:
            y = self.x
            for _ in range(steps):
                y = y - RATE * (self.gradient(i, y) - self.own[i] + self.c)
            new = self.own[i] - self.c + (self.x - y) / (steps * RATE)
            moves.append(y - self.x)
            changes.append(new - self.own[i])
            self.own[i] = new
        self.x = self.x + self.server_rate * np.mean(moves, axis=0)
        self.c = self.c + len(chosen) / len(self.data) * np.mean(changes, axis=0)


def stacked(fleet: Fleet, prefix: str = "") -> np.ndarray:
    found = fleet.weights
    return np.vstack([found[f"{prefix}w"], found[f"{prefix}b"]])


def test_it_is_the_published_algorithm(tmp_path: Path) -> None:
    examples = lines(5)
    spec = scaffold(5, "learning_rate = 0.8", epochs=4)
    fleet = Fleet(spec, linear(), examples, tmp_path / "fleet")
    published = Published(examples, stacked(fleet), server_rate=0.8)
    rng = np.random.default_rng(2)
    for _ in range(8):
        chosen = sorted(int(n) for n in rng.choice(5, 3, replace=False))
        fleet.round(chosen)
        published.round(chosen, steps=4)
        np.testing.assert_allclose(stacked(fleet), published.x, rtol=1e-5, atol=1e-5)
        control = stacked(fleet, "control/")
        np.testing.assert_allclose(control, -RATE * published.c, rtol=1e-5, atol=1e-5)
    assert np.abs(published.c).max() > 0.1


def test_the_first_round_is_fedavg(tmp_path: Path) -> None:
    examples = lines(3)
    with_it = Fleet(scaffold(3), linear(), examples, tmp_path / "with")
    without = Fleet(fedavg(), linear(), examples, tmp_path / "without")
    with_it.round()
    without.round()
    np.testing.assert_allclose(stacked(with_it), stacked(without), rtol=1e-5, atol=1e-6)
    assert [*without.weights] == ["b", "w"]


# What it is for

CLASSES, WIDE = 10, 20


def two_kinds_each(devices: int = CLASSES) -> list[Arrays]:
    """Each device has examples of two of the classes alone."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, WIDE), scale=1.2)
    found = []
    for device in range(devices):
        label = np.repeat([device, (device + 1) % CLASSES], 30)
        x = centres[label] + rng.normal(size=(label.size, WIDE))
        found.append({"x": x.astype(np.float32), "label": label})
    return found


def mean_loss(weights: Arrays, examples: list[Arrays]) -> float:
    """Of a softmax regression over all examples, in float64."""
    x = np.vstack([e["x"] for e in examples]).astype("f8")
    logits = x @ weights["w"] + weights["b"]
    logits -= logits.max(axis=1, keepdims=True)
    right = logits[np.arange(len(x)), np.concatenate([e["label"] for e in examples])]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - right))


def least_loss(examples: list[Arrays]) -> float:
    """What training in one place comes to."""
    x = np.vstack([e["x"] for e in examples]).astype("f8")
    x = np.hstack([x, np.ones((len(x), 1))])
    label = np.concatenate([e["label"] for e in examples])
    w = np.zeros((WIDE + 1, CLASSES))
    for _ in range(4000):
        p = np.exp(x @ w)
        p /= p.sum(axis=1, keepdims=True)
        p[np.arange(len(x)), label] -= 1
        w -= 0.5 * x.T @ p / len(x)
    return mean_loss({"w": w[:-1], "b": w[-1]}, examples)


def test_devices_that_are_unlike_come_nearer_to_the_common_model_than_with_fedavg(tmp_path: Path):
    """The paper's claim: ten devices of two classes each, five passes a round, batches of ten."""
    examples = two_kinds_each()
    least = least_loss(examples)
    keys = {"loss": "cross_entropy", "batch": 10}
    left = {}
    for name, spec in {"fedavg": fedavg(**keys), "scaffold": scaffold(10, **keys)}.items():
        fleet = Fleet(spec, linear(CLASSES, WIDE), examples, tmp_path / name)
        for _ in range(8):
            fleet.round()
        left[name] = mean_loss(fleet.weights, examples) - least
    print(left)
    assert 0 < left["scaffold"] < left["fedavg"] / 2
