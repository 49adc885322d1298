"""A hundred devices and their coordinator in one process: our own parts, but for HTTP.

A device trains by `edge_agent.session` on the compiled plan in ONNX Runtime and writes its update
by `edge_agent.reporting`, which keeps what a codec leaves out in the device's own folder. The
coordinator reads it by `wire.update`, checks it, sums it and closes the round by the task's
aggregator; the model goes down as a checkpoint's bytes. The same seed chooses the same devices and
shuffles alike, whatever the codec.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coordinator.aggregation import Aggregation, Contribution, FedAvg, aggregator
from coordinator.compiler.folder import read_plan_dir
from edge_agent import session
from edge_agent.evaluation import evaluate
from edge_agent.reporting import Reporting
from edge_agent.state import StateFolder
from examples.mnist.data import DEVICES, deal
from fleet.simulation import idx
from fleet.simulation.idx import Digits
from fleet.simulation.trainee import Trainee
from wire import checkpoint, update
from wire.checkpoint import Weights
from wire.digest import digest_of
from wire.messages import Assignment

CHOSEN = 10
"""Devices a round: C = 0.1."""

_LOOK = 1000  # test digits at a time
_TRAIN, _CHOOSE, _DEAL = range(3)  # what chance is drawn for


@dataclass(frozen=True)
class Method:
    """How updates are coded, and what the coordinator makes of their mean."""

    codec: str
    aggregation: Aggregation = field(default_factory=FedAvg)

    @property
    def name(self) -> str:
        """For tables."""
        kind = str(self.aggregation.__struct_config__.tag)
        return self.codec if kind == "fedavg" else f"{self.codec}, {kind}"


class Sent(NamedTuple):
    """An update that waits in its device's outbox, and the change that was learnt for it."""

    assignment: str
    data: bytes
    delta: Weights


class Federation:
    """A task's devices, whose state is in `folder`, its rounds, and its model, `checkpoint`."""

    def __init__(
        self, plan: Path, data: Path, method: Method, folder: Path, *, alike: bool, seed: int
    ) -> None:
        compiled = read_plan_dir(plan)
        self.manifest = compiled.manifest
        self.checkpoint = compiled.initial
        self.rounds = 0
        self._plan = plan
        self._training, self._test = idx.load(data)
        self._method = method
        self._seed = seed
        rng = np.random.default_rng([seed, _DEAL])
        self._shares = deal(self._training.labels, alike, rng)
        self._trainee = Trainee(self.manifest, plan)
        self._aggregator = aggregator(method.aggregation, self.manifest.parameters)
        self._state: bytes | None = None
        self._folder = folder

    @property
    def weights(self) -> Weights:
        """Those of the model."""
        return checkpoint.read(self.checkpoint, self.manifest.parameters)

    def round(self) -> list[int]:
        """One round; returns the bytes of each update. Raises `Diverged`, `WireError`."""
        self.rounds += 1
        weights, total = self.weights, self._aggregator.empty()
        sizes = []
        for device in self._chosen():
            sent = self.send(device, weights)
            sizes.append(len(sent.data))
            found = update.read(sent.data, self.manifest.parameters, self._method.codec)
            self._state_of(device).forget_update(sent.assignment)
            header = found.header
            contribution = Contribution(found.delta, header.examples, header.steps, 0)
            self._aggregator.check(contribution)
            total.add(contribution)
        closed = self._aggregator.close(weights, self._state, total)
        self.checkpoint, self._state = checkpoint.write(closed.weights), closed.state
        return sizes

    def send(self, device: int, weights: Weights) -> Sent:
        """Train on a device, and write its update. Raises `Diverged`."""
        examples = self._training.examples(self._shares[device], self.manifest.inputs)
        seed = [self._seed, _TRAIN, self.rounds, device]
        self._trainee.begin(weights, {}, seed=0)
        rng = np.random.default_rng(seed)
        trained = session.train(self._trainee, self.manifest, examples, rng, stop=lambda: False)
        work = self._assignment(device)
        header = update.UpdateHeader(
            assignment=work.id,
            plan=work.plan,
            base=work.model,
            codec=work.codec,
            examples=trained.examples,
            steps=trained.steps,
            loss=trained.loss,
            seconds=12.345678901234567,  # as long as a real one, and the same each time
        )
        state = self._state_of(device)
        reporting = Reporting(work, self.manifest, state.update_path(work.id), str(state.residuals))
        reporting.write(header, weights, trained.delta, np.random.default_rng([*seed, 1]))
        return Sent(work.id, state.update(work.id), trained.delta)

    def _assignment(self, device: int) -> Assignment:
        return Assignment(
            id=f"mnist-{self.rounds:010x}{device:010x}",
            task=self.manifest.task,
            round=self.rounds,
            version=self.rounds,
            plan=self.manifest.digest(),
            model=digest_of(self.checkpoint),
            codec=self._method.codec,
            deadline=3600.0,
            upload_limit=update.size_limit(self.manifest.parameters, self._method.codec),
            seed=0,
        )

    def _state_of(self, device: int) -> StateFolder:
        state = StateFolder(self._folder / str(device))
        state.create()
        return state

    def accuracy(self, target: float = 0.0) -> float:
        """Of the model on the test digits, or the highest that it can still be once it is certain
        that it is below `target`: to see every digit takes a CNN longer than to train."""
        digits, weights = self._test, self.weights
        count = digits.labels.size
        wrong = 0
        for start in range(0, count, _LOOK):
            wrong += self._mistakes(weights, digits, slice(start, start + _LOOK))
            if 1 - wrong / count < target:
                break
        return 1 - wrong / count

    def _mistakes(self, weights: Weights, digits: Digits, part: slice) -> int:
        examples = digits.examples(part, self.manifest.inputs)
        found = evaluate(self.manifest, self._plan, weights, examples, threads=1)
        return round((1 - found["accuracy"]) * len(examples))

    def _chosen(self) -> list[int]:
        rng = np.random.default_rng([self._seed, _CHOOSE, self.rounds])
        return [int(n) for n in rng.choice(DEVICES, CHOSEN, replace=False)]
