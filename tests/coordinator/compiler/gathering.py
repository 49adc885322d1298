"""A fleet in this process that gathers statistics: the agent's own training, updates as they are on
the wire, the coordinator's own sums."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from coordinator.aggregation import Contribution, aggregator
from coordinator.compiler.compile import compile_beside
from coordinator.compiler.folder import write_plan_dir
from coordinator.compiler.plan import CompiledPlan
from coordinator.export import complete_model
from coordinator.plans import codec_of, contradictions
from coordinator.taskfile import StatisticsFile, parse
from edge_agent import session
from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from fleet.clients import header
from tests.coordinator.compiler.building import run
from tests.edge_agent.samples import assignment
from wire import checkpoint, update
from wire.checkpoint import Weights

Array = np.ndarray


def never() -> bool:
    return False


def task(statistics: str, rest: str = "", batch: int = 7) -> StatisticsFile:
    """A task with these lines of [statistics]; `rest` are further tables."""
    text = f'name = "known"\n[statistics]\n{statistics}\n[training]\nbatch = {batch}\n'
    found = parse(text + f"[round]\ngoal = 3\n{rest}")
    assert isinstance(found, StatisticsFile)
    return found


class Gathering:
    """A task's rounds; `weights` is its newest model."""

    def __init__(self, spec: StatisticsFile, folder: Path) -> None:
        self.plan: CompiledPlan = compile_beside(spec, folder)
        self.folder = folder / "plan"
        write_plan_dir(self.plan, self.folder)
        self.manifest = self.plan.manifest
        assert contradictions(spec, self.manifest) == []
        self.codec = codec_of(spec, self.manifest)
        self.aggregator = aggregator(spec.aggregation, self.manifest.parameters)
        self.weights: Weights = checkpoint.read(self.plan.initial, self.manifest.parameters)
        self.rounds = 0

    def trained(self, share: Array, seed: int = 0) -> session.Trained:
        """What a device makes of the newest model and its examples."""
        trainer = session.Trainer(self.manifest, self.folder, self.weights, threads=1)
        return session.train(
            trainer, self.manifest, self.examples(share), np.random.default_rng(seed), never
        )

    def round(self, shares: Sequence[Array]) -> float:
        """One round over these devices' examples; returns their mean loss, an example."""
        total, losses = self.aggregator.empty(), 0.0
        for device, share in enumerate(shares):
            rng = np.random.default_rng([self.rounds, device])
            found = self.trained(share, seed=device + 100 * self.rounds)
            about = header(assignment(codec=self.codec), found.examples, steps=found.steps)
            sent = update.read(
                update.write(about, found.delta, rng), self.manifest.parameters, self.codec
            )
            one = Contribution(sent.delta, about.examples, about.steps, 0)
            self.aggregator.check(one)
            total.add(one)
            losses += found.loss * found.examples
        closed = self.aggregator.close(self.weights, None, total)
        published = checkpoint.write(closed.weights)
        self.weights = checkpoint.read(published, self.manifest.parameters)
        self.rounds += 1
        return losses / sum(map(len, shares))

    def examples(self, share: Array) -> Examples:
        """A device's examples."""
        return Examples({self.manifest.inputs[0].name: share})

    def measured(self, share: Array, weights: Weights | None = None) -> float:
        """The newest model's loss, or that of these weights, as a device finds it."""
        found = evaluate(
            self.manifest, self.folder, weights or self.weights, self.examples(share), threads=1
        )
        return found["loss"]

    def exported(self) -> bytes:
        """What `coordinator export` writes."""
        model = self.plan.files["model.onnx"]
        return complete_model(model, checkpoint.write(self.weights), None)

    def said(self, share: Array) -> Mapping[str, Array]:
        """What local programs get."""
        made = onnxruntime.InferenceSession(self.exported())
        return run(made, {self.manifest.inputs[0].name: share})


def shares_of(x: Array, *sizes: int) -> list[Array]:
    """The examples dealt out: so many to the first devices, the rest to the last."""
    return list(np.split(x, np.cumsum(sizes)))
