"""What is to be trained: a task's demands, held against the model that it names."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from coordinator.compiler import losses, lower, shapes, simplify, trained
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import BATCH, Emitter, Graph, TensorType, describe
from coordinator.compiler.losses import Loss
from coordinator.compiler.model import Model
from coordinator.compiler.naming import Names, is_reserved
from coordinator.compiler.options import losses as options
from coordinator.taskfile import TaskFile
from wire.plan import BASE, Input, InputType


@dataclass(frozen=True)
class Problem:
    """A model, from its inputs to `output`, and what training is to do with it.

    All names are tensors of `graph`, which holds the part of the model that the loss needs and
    nothing else yet. `inputs` are the example inputs, the labels' among them under `target`;
    `weights` maps the weights to train to their public names; `names` has those in use.
    """

    graph: Graph
    loss: Loss[Any]
    output: str
    target: str
    inputs: dict[str, Input]
    weights: dict[str, str]
    names: Names


def pose(task: TaskFile, model: Model) -> Problem:
    """Choose output, weights and names. Raises `CompileError` if loss or operators do not fit."""
    graph = model.graph.copy()
    name = _output_name(model, task.loss.output)
    output = _logits(graph, model.outputs[name], task.loss)
    weights = trained.weights(model, output, task.model.frozen)
    trained.check_operators(graph, weights, output)
    graph.constants |= {w: v for w, v in model.values.items() if w not in weights}
    lower.expand(graph)
    shapes.infer(graph, (*model.inputs.values(), *weights))
    simplify.prune(graph, [output])
    loss = losses.loss_of(task.loss, _output_type(graph, output, name), f"output {name!r}")
    inputs = _inputs(graph, model)
    target = _target(graph, model, loss.target(task.loss.label), inputs)
    # Reserved only where it is used, so that the names of all other plans stay as they were.
    names = Names(list(inputs.values()), (BASE,) if task.training.proximal else ())
    public = {w: names.take(model.weights[w]) for w in weights}
    return Problem(graph, loss, output, target, inputs, public, names)


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
    """Where cross-entropy starts: before the model's own last softmax, if it has one.

    The loss of the probabilities is the loss of the logits, and the latter is computed well.
    """
    made = graph.producers().get(output)
    if isinstance(loss, options.CrossEntropy) and made is not None and made.op == "Softmax":
        last = len(graph.shape(output)) - 1
        if made.attributes.get("axis", -1) in (-1, last):
            return made.inputs[0]
    return output


def _output_type(graph: Graph, output: str, name: str) -> TensorType:
    shape = graph.shape(output)
    dtype = graph.types[output].dtype
    if dtype != np.float32 or not shape or shape[0] != BATCH:
        raise CompileError(
            f"output {name!r} must be float32 with the batch as its first axis; it is "
            f"{dtype.name} {describe(shape)}"
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
            found[tensor] = Input(name=name, dtype=dtype, shape=graph.fixed(tensor))
    return found


def _target(graph: Graph, model: Model, label: Input, inputs: dict[str, Input]) -> str:
    """Add the labels to the inputs; returns their tensor."""
    if is_reserved(label.name):
        raise CompileError(
            f"loss.label = {label.name!r}: a name that plans use themselves, or none, or too long; "
            "choose another name for the labels"
        )
    if label.name in {*model.inputs, *model.weights.values()}:
        raise CompileError(
            f"loss.label = {label.name!r}: the model has an input or a weight of that name; "
            "choose another name for the labels"
        )
    tensor = Emitter(graph).name()
    inputs[tensor] = label
    graph.types[tensor] = TensorType(np.dtype(label.dtype), (BATCH, *label.shape))
    return tensor
