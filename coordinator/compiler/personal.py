"""`personal.onnx`: one step by which a device makes the published model its own.

It is the training graph of the same losses and optimiser, in which only the chosen weights move and
the others are inputs. Nothing in it holds a device near the fleet: no proximal term, none of
SCAFFOLD's corrections. A batch norm whose statistics are not chosen keeps them, so that what comes
before a head is what it is when the model is used.
"""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from msgspec.structs import replace as changed

from coordinator.aggregation.options import FedAvg
from coordinator.compiler import running
from coordinator.compiler.assemble import FrozenFile
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Array
from coordinator.compiler.model import Model
from coordinator.compiler.problem import Problem
from coordinator.compiler.training import training_graph
from coordinator.tables import Personal as Options
from coordinator.taskfile import TaskFile
from wire.plan import Personal

_NAMED = 20  # weights that a message lists


class PersonalGraph(NamedTuple):
    """`personal.onnx`, and what the manifest says of it."""

    data: bytes
    manifest: Personal


def personal_graph(
    task: TaskFile, model: Model, problem: Problem, values: Mapping[str, Array], frozen: FrozenFile
) -> PersonalGraph | None:
    """What a task with `[personal]` asks for. `problem` is the task's, with the trained weights'
    `values`. Call it after `training_graph`, so that names there are as they are without it.

    Raises `CompileError` where a pattern matches no trained weight, or none that a gradient moves.
    """
    options = task.personal
    if options is None:
        return None
    own = _chosen_alone(problem, _chosen(options, model, problem))
    made = training_graph(_unheld(task), own, {w: values[w] for w in own.weights}, frozen)
    return PersonalGraph(
        made.data,
        Personal(
            epochs=options.epochs,
            learning_rate=options.rate(task.optimizer.learning_rate),
            weights=tuple(own.weights.values()),
            state=tuple(made.state),
            draws=made.draws,
        ),
    )


def _unheld(task: TaskFile) -> TaskFile:
    """The task as it is for a device by itself."""
    return changed(
        task,
        training=changed(task.training, proximal=0.0),
        aggregation=FedAvg(),
        optimizer=changed(task.optimizer, schedule=None),
    )


def _chosen(options: Options, model: Model, problem: Problem) -> set[str]:
    """The trained weights that the patterns match, by the model's own names for them."""
    named = {w: model.weights[w] for w in problem.weights}
    found: set[str] = set()
    for pattern in options.weights:
        hit = {w for w, name in named.items() if fnmatchcase(name, pattern)}
        if not hit:
            names = list(named.values())
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise CompileError(
                f"personal.weights: {pattern!r} matches no weight that the task trains; it trains "
                f"{', '.join(names[:_NAMED])}{more}"
            )
        found |= hit
    return found


def _chosen_alone(problem: Problem, chosen: set[str]) -> Problem:
    """The problem in which only these weights move."""
    graph = problem.graph.copy()
    updates = running.keep_others(graph, problem.updates, chosen)
    moved = {
        w: name
        for w, name in problem.weights.items()
        if w in chosen and (w in updates or w not in problem.updates)
    }
    if set(moved) <= set(updates):
        raise CompileError(
            "personal.weights: only running statistics are chosen, which no gradient moves; name "
            "weights of layers, too"
        )
    still = {w: name for w, name in problem.weights.items() if w not in moved}
    return replace(problem, graph=graph, weights=moved, updates=updates, still=still)
