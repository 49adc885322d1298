"""A plan as a device runs it: by the agent's own code, or step by step in a session."""

from pathlib import Path

import numpy as np

from coordinator.compiler.plan import CompiledPlan
from edge_agent.draws import drawn
from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from edge_agent.session import Trainer
from tests.coordinator.compiler.building import run, session
from wire import checkpoint

Arrays = dict[str, np.ndarray]


def examples(size: int = 20, features: int = 4, classes: int = 3, seed: int = 3) -> Examples:
    """Random examples of what `building.dense` makes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, features)).astype(np.float32)
    return Examples({"x": x, "label": rng.integers(0, classes, size)})


def first(plan: CompiledPlan) -> Arrays:
    """The first checkpoint: the weights, and what is given with them."""
    return dict(checkpoint.read(plan.initial, plan.manifest.checkpoint))


def trainer_of(plan: CompiledPlan, folder: Path, weights: Arrays | None = None) -> Trainer:
    """A trainer of the plan that `compiled` left in `folder`; of these weights, or its first."""
    start = first(plan) if weights is None else weights
    return Trainer(plan.manifest, folder / "plan", start, threads=1)


def measured(plan: CompiledPlan, folder: Path, examples: Examples) -> dict[str, float]:
    """The metrics of the first weights."""
    return evaluate(plan.manifest, folder / "plan", first(plan), examples, threads=1)


def start(plan: CompiledPlan) -> Arrays:
    """Weights and optimiser state as a round begins with them."""
    state = {s.name: np.full(s.shape, s.fill, np.float32) for s in plan.manifest.state}
    return {**first(plan), **state}


def bases(plan: CompiledPlan) -> Arrays:
    """The weights as a round begins with them, as its proximal term takes them, if it has one."""
    now = start(plan)
    return {name: now[parameter] for parameter, name in plan.manifest.bases.items()}


def draws(plan: CompiledPlan, step: int, size: int) -> Arrays:
    """The random numbers of a step."""
    return drawn(plan.manifest.drawn, 0, step, size)


def steps(plan: CompiledPlan, folder: Path, feeds: Arrays, rate: float, count: int) -> Arrays:
    """Weights, state and loss after so many steps on the same batch."""
    made = session(folder / "plan" / "train.onnx")
    feeds = feeds | bases(plan)
    now = start(plan)
    size = len(next(iter(feeds.values())))
    for step in range(count):
        given = {**feeds, **draws(plan, step, size), **now}
        found = run(made, {**given, "learning_rate": np.float32(rate)})
        now = {n.removeprefix("next/"): v for n, v in found.items() if n != "loss"}
    return {**now, "loss": found["loss"]}
