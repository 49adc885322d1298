"""A plan at work: its graphs in stock ONNX Runtime sessions. Runs in the training child only.

Weights and optimiser state live in two sets of buffers: a step reads one and writes the other, so
nothing is copied. Threads are counted and never spin: the device has other work.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edge_agent.examples import Examples
from wire.checkpoint import FLOAT32, Weights
from wire.plan import Manifest

_EVALUATION_BATCH = 256
_CPU = "cpu"


class BadPlan(Exception):
    """ONNX Runtime cannot load a graph of the plan."""


class Diverged(Exception):
    """The loss or a weight is no longer finite: the learning rate is too high for this data."""


class Preempted(Exception):
    """Training was asked to stop."""


@dataclass(frozen=True)
class Trained:
    """What training gave: the change of each weight, and how it went."""

    delta: Weights
    examples: int
    steps: int
    loss: float


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """A session on explicit, sleeping threads. Raises `BadPlan`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - the runtime's errors share no other base
        raise BadPlan(f"{path.name} cannot be run: {error}") from None


class Trainer:
    """The plan's training graph with its weights and state; `step` runs one batch."""

    def __init__(self, manifest: Manifest, folder: Path, weights: Weights, threads: int) -> None:
        self._manifest = manifest
        self._session = open_session(folder / "train.onnx", threads)
        self._base = weights
        start = dict(weights) | {s.name: np.full(s.shape, s.fill, FLOAT32) for s in manifest.state}
        # The two sets swap roles at each step. An OrtValue shares its array's memory and holds the
        # array, so each gets one of its own and `weights` stay as they are.
        now = {n: ort.OrtValue.ortvalue_from_numpy(np.array(a)) for n, a in start.items()}
        then = {n: ort.OrtValue.ortvalue_from_numpy(np.empty_like(a)) for n, a in start.items()}
        self._sets = (now, then)
        self._loss = ort.OrtValue.ortvalue_from_numpy(np.zeros((), FLOAT32))
        rate = np.asarray(manifest.learning_rate, FLOAT32)
        self._rate = ort.OrtValue.ortvalue_from_numpy(rate)
        self._bindings = (self._bind(now, then), self._bind(then, now))
        self.steps = 0

    def _bind(self, read: dict[str, Any], write: dict[str, Any]) -> ort.IOBinding:
        binding = self._session.io_binding()
        taken = {i.name for i in self._session.get_inputs()}
        for name, value in read.items():
            if name in taken:
                binding.bind_ortvalue_input(name, value)
        if "learning_rate" in taken:
            binding.bind_ortvalue_input("learning_rate", self._rate)
        for name, value in write.items():
            binding.bind_ortvalue_output(f"next/{name}", value)
        binding.bind_ortvalue_output("loss", self._loss)
        return binding

    def step(self, batch: Examples) -> float:
        """One optimiser step; returns the batch's mean loss."""
        binding = self._bindings[self.steps % 2]
        for i in self._manifest.inputs:
            binding.bind_cpu_input(i.name, np.ascontiguousarray(batch.arrays[i.name]))
        self._session.run_with_iobinding(binding)
        self.steps += 1
        return float(self._loss.numpy())

    def weights(self) -> Weights:
        """The weights now, as copies: what `numpy()` shows is the runtime's own memory."""
        current = self._sets[self.steps % 2]
        return {p.name: current[p.name].numpy().copy() for p in self._manifest.parameters}

    def delta(self) -> Weights:
        """The change of each weight since the start. Raises `Diverged` when one is not finite."""
        changed = self.weights()
        for name, values in changed.items():
            values -= self._base[name]
            if not np.isfinite(values).all():
                raise Diverged(f"the change of {name!r} is not finite")
        return changed


def train(
    trainer: Trainer,
    manifest: Manifest,
    examples: Examples,
    rng: np.random.Generator,
    stop: Callable[[], bool],
) -> Trained:
    """All epochs of one round, shuffled anew each time; asks `stop` after every batch.

    Raises `Preempted`, or `Diverged` at the first loss that is not finite.
    """
    loss = 0.0
    for _ in range(manifest.epochs):
        loss = 0.0
        for chosen in _batches(rng.permutation(len(examples)), manifest.batch):
            found = trainer.step(examples.where(chosen))
            if not math.isfinite(found):
                raise Diverged(f"the loss is {found} after {trainer.steps} steps")
            loss += found * len(chosen)
            if stop():
                raise Preempted
    return Trained(trainer.delta(), len(examples), trainer.steps, loss / len(examples))


def evaluate(
    manifest: Manifest, folder: Path, weights: Weights, examples: Examples, threads: int
) -> dict[str, float]:
    """The plan's metrics of `weights` over at least one example."""
    session = open_session(folder / "evaluate.onnx", threads)
    names = [f"metric/{m.name}" for m in manifest.metrics]
    totals = np.zeros(len(names))
    for chosen in _batches(np.arange(len(examples)), _EVALUATION_BATCH):
        batch = {n: np.ascontiguousarray(a[chosen]) for n, a in examples.arrays.items()}
        taken = {i.name for i in session.get_inputs()}
        feed = {n: a for n, a in (weights | batch).items() if n in taken}
        totals += [float(total) for total in session.run(names, feed)]
    return {
        m.name: m.value(float(total), len(examples))
        for m, total in zip(manifest.metrics, totals, strict=True)
    }


def _batches(order: np.ndarray[Any, Any], size: int) -> Iterator[np.ndarray[Any, Any]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]
