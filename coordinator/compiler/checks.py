"""What is looked at before a plan is handed out: mistakes that would cost a whole fleet.

Each check is a function over the model, the plan's inputs or the finished plan: it returns warnings
or raises `CompileError`.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from coordinator.compiler.errors import CompileError
from coordinator.compiler.estimate import estimate, largest_batch
from coordinator.compiler.graph import Graph, describe
from coordinator.compiler.model import Model
from coordinator.compiler.patterns import matching
from wire.plan import FileName, Input, Manifest
from wire.sizes import human_size

MEMORY_LIMIT = 16 << 30
"""Bytes that a training child may need, at most: no device has more to give."""
_NAMED = 20  # weights that a message lists
_SMALLER = "no batch fits; a smaller model, frozen weights or an optimiser with less state might"


def check_sizes(model: Model) -> None:
    """Raise `CompileError` where there is no output, or a weight has an axis of length 0."""
    if not model.outputs:
        raise CompileError("the model has no output; export it with the one that the loss is of")
    read = {name for node in model.graph.nodes for name in node.inputs}
    for tensor, name in model.weights.items():
        value = model.values[tensor]
        # One axis of length 0 is how an optional input is left out (Resize's scales).
        if value.size == 0 and value.ndim > 1 and tensor in read:
            raise CompileError(
                f"weight {name!r} has the shape {describe(value.shape)}: an axis of length 0 holds "
                "nothing; export the model anew"
            )


def check_labels(inputs: Iterable[Input]) -> None:
    """Raise `CompileError` where a label has more classes than its type has numbers."""
    for entry in inputs:
        if entry.classes is None:
            continue
        if not entry.dtype.startswith(("int", "uint")):
            raise CompileError(f"label {entry.name!r} is {entry.dtype}; classes are integers")
        most = int(np.iinfo(entry.dtype).max)
        if entry.classes - 1 > most:
            raise CompileError(
                f"label {entry.name!r} has {entry.classes} classes, and {entry.dtype} ends at "
                f"{most}: let it be of a wider type"
            )


def check_gradients(without: Sequence[str]) -> None:
    """Raise `CompileError` if there are weights that no gradient reaches; by their labels."""
    if without:
        raise CompileError(
            f"no gradient reaches {_listed(without)}: name {'it' if len(without) == 1 else 'them'} "
            "in model.frozen"
        )


def unused(
    model: Model, outputs: Sequence[str | None], trained: Iterable[str], frozen: Iterable[str]
) -> list[str]:
    """Warnings that name the model's weights which stay as they are, though nobody asked for it.

    `outputs` are the losses', None where a model has but one. `trained` are the graph's names of
    weights, `frozen` the task's patterns. Single numbers are constants, and not spoken of.
    """
    named = [name for name in outputs if name is not None] or list(model.outputs)
    seen = _needed(model.graph, [model.outputs[name] for name in named])
    anywhere = _needed(model.graph, model.outputs.values())
    still = {w: n for w, n in model.weights.items() if model.values[w].size > 1}
    for asked_for in (*trained, *model.still, *matching(model, "frozen", frozen)):
        still.pop(asked_for, None)
    nowhere = [name for w, name in still.items() if w not in anywhere]
    elsewhere = [name for w, name in still.items() if w in anywhere and w not in seen]
    constant = [name for w, name in still.items() if w in seen]
    found = []
    if nowhere:
        found.append(f"no output of the model depends on {_listed(map(repr, nowhere))}")
    if elsewhere:
        found.append(
            f"the loss does not depend on {_listed(map(repr, elsewhere))}, which other outputs of "
            "the model use: they are not trained"
        )
    if constant:
        found.append(
            f"{_listed(map(repr, constant))} will not be trained: where the model uses them, "
            "they are no weights, or no gradient comes by"
        )
    return found


def memory(manifest: Manifest, files: Mapping[FileName, bytes]) -> list[str]:
    """Warnings about boards that the plan does not fit. Raises `CompileError` where nothing has so
    much memory."""
    try:
        found = estimate(manifest, files)
    except CompileError as error:
        return [f"nothing can be estimated: {error}"]

    def advice(limit: int) -> str:
        evaluation = found.memory.evaluation
        batch = largest_batch(manifest, files, evaluation, limit)
        return f"training.batch = {batch} fits" if batch else _SMALLER

    needs = max(board.needs for board in found.boards)
    if needs > MEMORY_LIMIT:
        raise CompileError(
            f"training.batch = {manifest.batch}: a device would need {human_size(needs)} to train; "
            + advice(MEMORY_LIMIT)
        )
    return [
        f"training needs about {human_size(on.needs)}, and the agent's profile for a {on.board} "
        f"gives {human_size(on.limit)}: {advice(on.limit)}"
        for on in found.boards
        if not on.fits
    ]


def _needed(graph: Graph, outputs: Iterable[str]) -> set[str]:
    """What these tensors are computed from, themselves among it."""
    needed = set(outputs)
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
    return needed


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
