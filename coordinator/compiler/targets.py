"""Where a loss finds its target: an example input of its own, one of another loss, or an input of
the model itself, as an autoencoder has it."""

from typing import Any, cast

import msgspec
import numpy as np
from msgspec import UNSET

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import BATCH, Emitter, Graph, TensorType, describe
from coordinator.compiler.losses import Loss
from coordinator.compiler.model import Model
from coordinator.compiler.naming import is_reserved
from wire.plan import Input, InputType


def place(graph: Graph, model: Model, loss: Loss[Any], label: str, inputs: dict[str, Input]) -> str:
    """The tensor of the input that `label` names, put among `inputs` if it is not there. Raises
    `CompileError` if it cannot be the loss's target."""
    if is_reserved(label):
        raise CompileError(
            f"loss.label = {label!r}: a name that plans use themselves, or none, or too long; "
            "choose another name for the labels"
        )
    wanted = loss.target(label)
    if label in model.weights.values():
        raise CompileError(
            f"loss.label = {label!r}: the model has a weight of that name; choose another name for "
            "the labels"
        )
    if label in model.inputs:
        return _own_input(graph, model.inputs[label], wanted, loss, inputs)
    for tensor, other in inputs.items():
        if other.name == label:
            inputs[tensor] = _shared(other, wanted)
            return tensor
    tensor = Emitter(graph).name()
    inputs[tensor] = wanted
    graph.types[tensor] = TensorType(np.dtype(wanted.dtype), (BATCH, *wanted.shape))
    return tensor


def _shared(one: Input, other: Input) -> Input:
    """One input for two losses."""
    if _type(one) != _type(other):
        raise CompileError(
            f"loss.label = {one.name!r} is named by two losses and they need different labels: "
            f"{_described(one)}, and {_described(other)}; give each a name of its own"
        )
    return one if other.range is UNSET else other


def _own_input(
    graph: Graph, tensor: str, wanted: Input, loss: Loss[Any], inputs: dict[str, Input]
) -> str:
    """An input of the model as the target: one of the output's type and shape."""
    dtype = cast(InputType, graph.types[tensor].dtype.name)
    given = Input(name=wanted.name, dtype=dtype, shape=graph.fixed(tensor))
    if wanted.dtype != "float32":
        raise CompileError(
            f"loss.label = {given.name!r}: the model has an input of that name; choose another "
            "name for the labels (only where the target is float32 can it be an input of the "
            f"model, and that of {loss.kind!r} is not)"
        )
    if _type(given) != _type(wanted):
        flat = given.dtype == "float32" and np.prod(given.shape) == np.prod(wanted.shape)
        hint = (
            "they have as many elements: reshape the output in the model to the input's shape, or "
            "the other way round"
            if flat
            else "choose another name for the target, if it is not this input"
        )
        raise CompileError(
            f"loss.label = {given.name!r}: the model's input of that name is {_described(given)}, "
            f"and the loss {loss.kind!r} needs {_described(wanted)}, as the output is; {hint}"
        )
    inputs[tensor] = _shared(inputs.get(tensor, given), wanted)
    return tensor


def _type(entry: Input) -> Input:
    """What two inputs must have in common: all but the range, which the narrower one sets."""
    return msgspec.structs.replace(entry, range=UNSET)


def _described(entry: Input) -> str:
    """An input in a message."""
    classes = "" if entry.classes is None else f" below {entry.classes}"
    ignored = "" if entry.ignored is UNSET else f" or {entry.ignored}"
    return f"{entry.dtype} {describe((BATCH, *entry.shape))}{classes}{ignored}"
