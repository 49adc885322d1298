"""What is to be trained: a task's demands, held against the model that it names."""

from dataclasses import dataclass, field
from typing import cast

import numpy as np
from msgspec import UNSET

from coordinator.aggregation.options import CONTROL, Scaffold
from coordinator.compiler import (
    indices,
    losses,
    modes,
    running,
    shapes,
    simplify,
    targets,
    trained,
)
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import BATCH, Graph, TensorType, describe
from coordinator.compiler.losses.terms import Term
from coordinator.compiler.model import Model
from coordinator.compiler.naming import Names
from coordinator.compiler.options import losses as options
from coordinator.taskfile import TaskFile
from wire.plan import BASE, Input, InputType


@dataclass(frozen=True)
class Problem:
    """A model, from its inputs to the outputs of `terms`, and what training is to do with it.

    All names are tensors of `graph`, which holds the part of the model that the losses need, in the
    model's own operators (see `modes.py`), and nothing else yet. `inputs` are the example inputs,
    the labels among them; `terms` are the losses of the sum; `weights` maps the weights to train to
    their public names; `names` has those in use. `updates` maps weights that change without a
    gradient to the tensor that holds their next value in training. `still` maps weights that are
    inputs as well, but stay as they are, to their public names.
    """

    graph: Graph
    terms: tuple[Term, ...]
    inputs: dict[str, Input]
    weights: dict[str, str]
    names: Names
    updates: dict[str, str] = field(default_factory=dict)
    still: dict[str, str] = field(default_factory=dict)


def pose(task: TaskFile, model: Model) -> Problem:
    """Choose outputs, weights and names. Raises `CompileError` if losses or operators do not
    fit."""
    graph = model.graph.copy()
    names = [_output_name(model, loss.output) for loss in task.losses]
    outputs = [
        _logits(graph, model.outputs[name], loss)
        for name, loss in zip(names, task.losses, strict=True)
    ]
    if task.model.dropout == "off":
        modes.without_dropout(graph)
    found = trained.weights(model, outputs, task.model.frozen, task.model.trained)
    simplify.prune(graph, outputs)
    updates = _updates(graph, task, model)
    weights = list(dict.fromkeys([*found, *updates]))
    graph.constants |= {w: v for w, v in model.values.items() if w not in weights}
    shapes.infer(graph, (*model.inputs.values(), *weights))
    simplify.forget(graph, outputs)
    inputs = _inputs(graph, model)
    terms = tuple(
        _term(section, graph, output, name, model, inputs)
        for section, output, name in zip(task.losses, outputs, names, strict=True)
    )
    # Reserved only where it is used, so that the names of all other plans stay as they were.
    taken = Names(list(inputs.values()), _prefixes(task))
    public = {w: taken.take(model.weights[w]) for w in weights}
    return Problem(graph, terms, inputs, public, taken, updates)


def _term(
    section: options.Loss,
    graph: Graph,
    output: str,
    name: str,
    model: Model,
    inputs: dict[str, Input],
) -> Term:
    """One loss, its target put among `inputs`."""
    loss = losses.loss_of(section, _output_type(graph, output, name), f"output {name!r}")
    target = targets.place(graph, model, loss, section.label, inputs)
    return Term(loss, output, target, name, section.weight)


def _updates(graph: Graph, task: TaskFile, model: Model) -> dict[str, str]:
    """Put batch norms in the mode that the task asks for."""
    if task.model.batch_norm == "frozen":
        running.keep(graph)
        return {}
    if task.training.batch == 1:
        raise CompileError(
            "model.batch_norm = 'recomputed': a batch of one has no statistics of its own; let "
            "training.batch be 2 or more, 10 say"
        )
    still = trained.matching(model, "frozen", task.model.frozen) | model.still
    return running.recompute(graph, model, still)


def _prefixes(task: TaskFile) -> tuple[str, ...]:
    """What this plan itself puts before the names of weights."""
    found = (BASE,) if task.training.proximal else ()
    return (*found, CONTROL) if isinstance(task.aggregation, Scaffold) else found


def _output_name(model: Model, wanted: str | None) -> str:
    names = list(model.outputs)
    if wanted is None and len(names) == 1:
        return names[0]
    listed = ", ".join(map(repr, names))
    if wanted is None:
        raise CompileError(f"the model has several outputs: say loss.output, one of {listed}")
    if wanted not in names:
        raise CompileError(f"loss.output = {wanted!r}: the model has no such output, but {listed}")
    return wanted


def _logits(graph: Graph, output: str, loss: options.Loss) -> str:
    """Where a loss of logits starts: before the model's own last softmax or sigmoid, if it has one.

    The loss of the probabilities is the loss of the logits, and the latter is computed well.
    """
    producers = graph.producers()
    made = producers.get(output)
    while made is not None and made.op == "Identity":
        made = producers.get(made.inputs[0])
    if made is None:
        return output
    if isinstance(loss, options.BinaryCrossEntropy) and made.op == "Sigmoid":
        return made.inputs[0]
    if isinstance(loss, options.CrossEntropy) and made.op in ("Softmax", "LogSoftmax"):
        rank = len(graph.shape(output))
        if (int(made.attributes.get("axis", -1)) - loss.axis) % rank == 0:
            return made.inputs[0]
    return output


def _output_type(graph: Graph, output: str, name: str) -> TensorType:
    shape = graph.shape(output)
    dtype = graph.types[output].dtype
    if dtype != np.float32 or not shape or shape[0] != BATCH:
        raise CompileError(
            f"output {name!r} must be float32 with the batch as its first axis; it is "
            f"{dtype.name} {describe(shape)}. The first axis of the inputs must be the batch, "
            "too: a torch model with recurrent layers needs batch_first=True"
        )
    graph.fixed(output)
    return TensorType(dtype, shape)


def _inputs(graph: Graph, model: Model) -> dict[str, Input]:
    """The model's inputs that the output depends on."""
    used = {n for node in graph.nodes for n in node.inputs}
    found = {}
    for name, tensor in model.inputs.items():
        if tensor in used:
            dtype = cast(InputType, graph.types[tensor].dtype.name)
            shape = graph.fixed(tensor)
            fits = UNSET if dtype.startswith("float") else indices.allowed(graph, tensor)
            found[tensor] = Input(name=name, dtype=dtype, shape=shape, range=fits)
    return found
