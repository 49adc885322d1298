"""`train.onnx`: one step of training, from a problem to a graph of standard operators."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np

from coordinator.aggregation.options import CONTROL, Scaffold
from coordinator.compiler import (
    clipping,
    gradient,
    lower,
    modes,
    proximal,
    scaffold,
    shapes,
    simplify,
    trained,
)
from coordinator.compiler.assemble import FrozenFile
from coordinator.compiler.finish import finish
from coordinator.compiler.graph import Array, Emitter, Graph, TensorType
from coordinator.compiler.losses import terms
from coordinator.compiler.optimizers import optimizer_of
from coordinator.compiler.problem import Problem
from coordinator.compiler.slopes import SUFFIX
from coordinator.compiler.state import State, Step
from coordinator.taskfile import TaskFile
from wire.plan import BASE, Draw, Slot

_FLOAT32 = np.dtype(np.float32)
_SCALAR = TensorType(_FLOAT32, ())


def differentiated(problem: Problem, values: Mapping[str, Array]) -> tuple[Graph, str]:
    """The model, its mean loss and their gradient, not lowered yet; and the loss's tensor.

    The gradient of each weight of `values` is the tensor `<weight>_grad`, but for those that
    change without (`Problem.updates`): their next values are there.
    """
    graph = problem.graph.copy()
    modes.for_training(graph)
    unmoved = (*problem.inputs, *graph.draws, *problem.updates, *problem.still)
    examples = {n: graph.types[n] for n in unmoved}
    moved = {w: value for w, value in values.items() if w not in problem.updates}
    lower.expand(graph, examples, moved)
    # After it: what a loss is made of needs no gradient but its own (see `slopes.py`).
    loss = terms.mean(Emitter(graph, "loss"), problem.terms)
    shapes.update(graph, (*examples, *moved))
    simplify.prune(graph, [loss, *problem.updates.values()])
    trained.check_operators(graph, moved, loss)
    graph = gradient.differentiate(graph, examples, moved, loss)
    return graph, loss


class TrainingGraph(NamedTuple):
    """`train.onnx`, the optimiser's state and the random numbers that it takes."""

    data: bytes
    state: list[Slot]
    draws: tuple[Draw, ...]


def training_graph(
    task: TaskFile, problem: Problem, values: Mapping[str, Array], frozen: FrozenFile
) -> TrainingGraph:
    """`train.onnx`, or `personal.onnx` of a problem that `personal.py` makes; and what it takes.
    `values` are the trained weights'."""
    graph, loss = differentiated(problem, values)
    lower.lower(graph)
    rate = Emitter(graph).name()
    graph.types[rate] = _SCALAR
    followed = _followed(task, problem, graph, loss, rate)
    step = optimizer_of(task.optimizer).step(Emitter(graph, "optimizer"), rate, followed.gradients)
    step.state += followed.state

    draws = _draws(graph, problem)
    inputs = {tensor: entry.name for tensor, entry in problem.inputs.items()}
    inputs |= problem.weights | problem.still | followed.inputs
    inputs |= {tensor: draw.name for tensor, draw in draws.items()}
    slots, state_outputs = _state(graph, problem, step, inputs)
    inputs[rate] = "learning_rate"
    wanted = {"loss": loss}
    after = step.weights | problem.updates
    wanted |= {f"next/{name}": after[w] for w, name in problem.weights.items()}
    wanted |= state_outputs
    state = {s.now for s in step.state if s.next}
    data = finish(graph, inputs, wanted, frozen, state)
    return TrainingGraph(data, slots, tuple(draws.values()))


class _Followed(NamedTuple):
    """What the optimiser follows, by weight; and the inputs (public names by tensor) and the state
    that this needs."""

    gradients: dict[str, str]
    inputs: dict[str, str]
    state: list[State]


def _followed(task: TaskFile, problem: Problem, graph: Graph, loss: str, rate: str) -> _Followed:
    """The loss's gradients, pulled to the base or corrected, and clipped, as the task asks."""
    seed, clip = optimizer_of(task.optimizer).seed(rate), task.optimizer.clip_norm
    gradients = {w: w + SUFFIX for w in problem.weights if w not in problem.updates}
    inputs: dict[str, str] = {}
    state: list[State] = []
    # What the gradients are multiplied by until they are clipped: their norm is then without it.
    factor = None if clip else seed
    if factor is not None:
        _put_seed(graph, loss, factor)
    if mu := task.training.proximal:
        emit = Emitter(graph, "proximal")
        gradients, bases = proximal.pulled(emit, mu, factor, gradients)
        bases |= {w: proximal.base_of(emit, w) for w in problem.updates}
        inputs |= {base: BASE + problem.weights[w] for w, base in bases.items()}
    if isinstance(task.aggregation, Scaffold):
        assert factor == rate, "the task file wants plain SGD"
        gradients, controls, state = scaffold.corrected(Emitter(graph, "scaffold"), gradients)
        inputs |= {control: CONTROL + problem.weights[w] for w, control in controls.items()}
    if clip:
        gradients = clipping.clipped(Emitter(graph, "clipping"), clip, seed, gradients)
    return _Followed(gradients, inputs, state)


def _draws(graph: Graph, problem: Problem) -> dict[str, Draw]:
    """Name the random numbers that the training graph takes."""
    return {
        tensor: Draw(name=problem.names.take(f"draw/{number}"), shape=shape)
        for number, (tensor, shape) in enumerate(graph.draws.items(), start=1)
    }


def _put_seed(graph: Graph, loss: str, seed: str) -> None:
    """Put the seed, an input of the graph, in the place of the loss's gradient by itself, 1."""
    own = loss + SUFFIX
    graph.nodes = [node.renamed({own: seed}) for node in graph.nodes]
    del graph.constants[own]


def _state(
    graph: Graph, problem: Problem, step: Step, inputs: dict[str, str]
) -> tuple[list[Slot], dict[str, str]]:
    """Name the optimiser's state: its slots, and the outputs that carry it on."""
    slots, outputs = [], {}
    named: dict[tuple[str | None, str | None], str] = {}
    for state in step.state:
        wanted = state.kind
        if state.weight is not None:
            wanted = f"{state.kind}/{problem.weights.get(state.weight, 'small')}"
        name = named[state.kind, state.weight] = problem.names.take(wanted)
        graph.types[state.now] = TensorType(_FLOAT32, state.shape)
        inputs[state.now] = name
        if state.next is not None:
            outputs[f"next/{name}"] = state.next
        carried = named[state.carried, state.weight] if state.carried else msgspec.UNSET
        slots.append(Slot(name=name, shape=state.shape, fill=state.fill, carried=carried))
    return slots, outputs
