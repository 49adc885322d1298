"""The plan compiler: from a task file and a model to a plan that stock ONNX Runtime trains.

The steps, in order: read the model (`model.py`); put adapters beside matrices (`lora.py`); choose
the output, the weights to train and the names (`problem.py`, `trained.py`); write operators as they
are in training (`modes.py`), and as the gradient builder wants them (`lower.expand`); add the
losses (`losses/`); differentiate (`gradient.py`); lower what only the training build knows
(`lower.lower`, `operators/`); add the proximal term (`proximal.py`) or SCAFFOLD's corrections
(`scaffold.py`), clip the gradients (`clipping.py`) and add the optimiser's step (`optimizers.py`);
simplify and fuse (`simplify.py`, `fuse.py`); give public names and write the files (`assemble.py`).
That no example depends on the others in its batch, a run shows (`mixing.py`).
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from coordinator.aggregation.options import CONTROL, Scaffold
from coordinator.compiler import (
    clipping,
    fuse,
    gradient,
    lora,
    lower,
    mixing,
    model,
    modes,
    proximal,
    scaffold,
    shapes,
    simplify,
    trained,
)
from coordinator.compiler.assemble import FrozenFile, Interface, write
from coordinator.compiler.convert import External
from coordinator.compiler.graph import OPSET, Array, Emitter, Graph, TensorType
from coordinator.compiler.losses import terms
from coordinator.compiler.metrics import measured
from coordinator.compiler.optimizers import optimizer_of
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.problem import Problem, pose
from coordinator.compiler.rates import schedule_of
from coordinator.compiler.state import State, Step, check_in_place
from coordinator.compiler.statistics.plan import compile_statistics
from coordinator.taskfile import StatisticsFile, TaskFile
from wire import checkpoint, tensors
from wire.digest import digest_of
from wire.plan import (
    BASE,
    CHECKPOINT_NAME,
    Draw,
    FileName,
    Manifest,
    Parameter,
    PlanFile,
    Slot,
    parse_manifest,
)

_FLOAT32 = np.dtype(np.float32)
_SCALAR = TensorType(_FLOAT32, ())


def compile_beside(task: TaskFile | StatisticsFile, folder: Path) -> CompiledPlan:
    """Compile a task of any kind. The files that it names, its model or its first centres, are
    looked for in `folder`, where the task file is. Raises `CompileError` as `compile_task` does."""
    if isinstance(task, StatisticsFile):
        return compile_statistics(task, folder)
    return compile_task(task, folder / task.model.file)


def compile_task(task: TaskFile, model_path: Path) -> CompiledPlan:
    """Compile a task that trains a model. `model_path` is where `task.model.file` is.

    The same task and model give the same bytes. Raises `CompileError` for anything the person who
    wrote the task or exported the model can put right.
    """
    gradient.training_build()
    loaded = lora.adapted(model.load(model_path), task.model.lora)
    problem = pose(task, loaded)
    frozen = FrozenFile()
    values = {w: loaded.values[w] for w in problem.weights}
    given = _given(task, problem, values)
    zeros = {p.name: np.zeros(p.shape, _FLOAT32) for p in given}
    initial = checkpoint.write({problem.weights[w]: v for w, v in values.items()} | zeros)
    train = _train(task, problem, values, frozen)
    _check_examples(problem, values)
    files: dict[FileName, bytes] = {
        "train.onnx": train.data,
        "evaluate.onnx": _evaluate(task, problem, frozen),
        "model.onnx": _model(loaded, problem, initial, frozen),
    }
    if constants := frozen.to_bytes():
        files["frozen.bin"] = constants
    manifest = Manifest(
        task=task.name,
        inputs=tuple(problem.inputs.values()),
        parameters=tuple(
            Parameter(name=name, shape=values[w].shape) for w, name in problem.weights.items()
        ),
        state=tuple(train.state),
        metrics=tuple(m.metric for m in measured(task.training.metrics, problem.terms)),
        epochs=task.training.epochs,
        batch=task.training.batch,
        learning_rate=task.optimizer.learning_rate,
        opset=OPSET,
        files={n: PlanFile(digest=digest_of(b), bytes=len(b)) for n, b in files.items()},
        tolerance=task.keep.tolerance or msgspec.UNSET,
        proximal=task.training.proximal or msgspec.UNSET,
        lazy=task.upload.lazy or msgspec.UNSET,
        given=given or msgspec.UNSET,
        schedule=schedule_of(task) or msgspec.UNSET,
        draws=train.draws or msgspec.UNSET,
    )
    return CompiledPlan(parse_manifest(manifest.to_bytes()), files, initial)


def _given(task: TaskFile, problem: Problem, values: Mapping[str, Array]) -> tuple[Parameter, ...]:
    """What the coordinator sends with the model's weights."""
    if not isinstance(task.aggregation, Scaffold):
        return ()
    return tuple(
        Parameter(name=CONTROL + name, shape=values[w].shape)
        for w, name in problem.weights.items()
        if w not in problem.updates
    )


def _check_examples(problem: Problem, values: Mapping[str, Array]) -> None:
    """Raise `CompileError` if an example's output depends on the others in its batch."""
    graph = problem.graph.copy()
    modes.for_evaluation(graph)
    outputs = {term.output: f"output {term.name!r}" for term in problem.terms}
    simplify.prune(graph, outputs)
    used = {name for node in graph.nodes for name in node.inputs}
    mixing.check(graph, [t for t in problem.inputs if t in used], values, outputs)


def differentiated(problem: Problem, values: Mapping[str, Array]) -> tuple[Graph, str]:
    """The model, its mean loss and their gradient, not lowered yet; and the loss's tensor.

    The gradient of each weight of `values` is the tensor `<weight>_grad`, but for those that
    change without (`Problem.updates`): their next values are there.
    """
    graph = problem.graph.copy()
    modes.for_training(graph)
    examples = {n: graph.types[n] for n in (*problem.inputs, *graph.draws, *problem.updates)}
    moved = {w: value for w, value in values.items() if w not in problem.updates}
    lower.expand(graph, examples, moved)
    # After it: what a loss is made of needs no gradient but its own (see `slopes.py`).
    loss = terms.mean(Emitter(graph, "loss"), problem.terms)
    shapes.update(graph, (*examples, *moved))
    simplify.prune(graph, [loss, *problem.updates.values()])
    trained.check_operators(graph, moved, loss)
    graph = gradient.differentiate(graph, examples, moved, loss)
    return graph, loss


class _Train(NamedTuple):
    """`train.onnx`, the optimiser's state and the random numbers that it takes."""

    data: bytes
    state: list[Slot]
    draws: tuple[Draw, ...]


def _train(
    task: TaskFile, problem: Problem, values: Mapping[str, Array], frozen: FrozenFile
) -> _Train:
    """`train.onnx`, and what it takes. `values` are the trained weights'."""
    graph, loss = differentiated(problem, values)
    lower.lower(graph)
    optimizer = optimizer_of(task.optimizer)
    rate = Emitter(graph).name()
    graph.types[rate] = _SCALAR
    seed, clip = optimizer.seed(rate), task.optimizer.clip_norm
    gradients = {w: w + gradient.SUFFIX for w in problem.weights if w not in problem.updates}
    # What the gradients are multiplied by until they are clipped: their norm is then without it.
    factor = None if clip else seed
    if factor is not None:
        _put_seed(graph, loss, factor)
    bases: dict[str, str] = {}
    if mu := task.training.proximal:
        emit = Emitter(graph, "proximal")
        gradients, bases = proximal.pulled(emit, mu, factor, gradients)
        bases |= {w: proximal.base_of(emit, w) for w in problem.updates}
    controls: dict[str, str] = {}
    variates: list[State] = []
    if isinstance(task.aggregation, Scaffold):
        assert factor == rate, "the task file wants plain SGD"
        gradients, controls, variates = scaffold.corrected(Emitter(graph, "scaffold"), gradients)
    if clip:
        gradients = clipping.clipped(Emitter(graph, "clipping"), clip, seed, gradients)
    step = optimizer.step(Emitter(graph, "optimizer"), rate, gradients)
    step.state += variates

    inputs = {tensor: entry.name for tensor, entry in problem.inputs.items()}
    inputs |= problem.weights
    inputs |= {base: BASE + problem.weights[w] for w, base in bases.items()}
    inputs |= {control: CONTROL + problem.weights[w] for w, control in controls.items()}
    draws = _draws(graph, problem)
    inputs |= {tensor: draw.name for tensor, draw in draws.items()}
    slots, state_outputs = _state(graph, problem, step, inputs)
    inputs[rate] = "learning_rate"
    wanted = {"loss": loss}
    after = step.weights | problem.updates
    wanted |= {f"next/{name}": after[w] for w, name in problem.weights.items()}
    wanted |= state_outputs
    state = {s.now for s in step.state if s.next}
    data = _finish(graph, inputs, wanted, frozen, state)
    return _Train(data, slots, tuple(draws.values()))


def _draws(graph: Graph, problem: Problem) -> dict[str, Draw]:
    """Name the random numbers that the training graph takes."""
    return {
        tensor: Draw(name=problem.names.take(f"draw/{number}"), shape=shape)
        for number, (tensor, shape) in enumerate(graph.draws.items(), start=1)
    }


def _finish(
    graph: Graph,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    frozen: FrozenFile,
    state: Collection[str] = (),
) -> bytes:
    shapes.update(graph, inputs)
    now = simplify.simplify(graph, outputs.values())
    fuse.join_products(graph)
    shapes.update(graph, inputs)
    fuse.accumulate(graph)
    simplify.prune(graph, now.values())
    slots = {tensor: f"next/{name}" for tensor, name in inputs.items() if tensor in state}
    check_in_place(graph, {tensor: now[outputs[public]] for tensor, public in slots.items()})
    simplify.name_batch(graph)
    interface = Interface(inputs, {public: now[tensor] for public, tensor in outputs.items()})
    return write(graph, interface, lambda _, value: frozen.place(value))


def _put_seed(graph: Graph, loss: str, seed: str) -> None:
    """Put the seed, an input of the graph, in the place of the loss's gradient by itself, 1."""
    own = loss + gradient.SUFFIX
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


def _evaluate(task: TaskFile, problem: Problem, frozen: FrozenFile) -> bytes:
    """`evaluate.onnx`: the metrics' sums over a batch."""
    graph = problem.graph.copy()
    modes.for_evaluation(graph)
    emit = Emitter(graph, "metric")
    outputs = {
        f"metric/{m.metric.name}": m.totals(emit)
        for m in measured(task.training.metrics, problem.terms)
    }
    inputs = {tensor: entry.name for tensor, entry in problem.inputs.items()} | problem.weights
    return _finish(graph, inputs, outputs, frozen)


def _model(loaded: model.Model, problem: Problem, initial: bytes, frozen: FrozenFile) -> bytes:
    """`model.onnx`: the model as it was, its trained weights in the checkpoint beside it."""
    graph = loaded.graph.copy()
    graph.constants |= {w: v for w, v in loaded.values.items() if w not in problem.weights}
    modes.for_evaluation(graph)
    now = simplify.simplify(graph, loaded.outputs.values())
    graph.constants |= {w: loaded.values[w] for w in problem.weights}
    places = {
        name: External(CHECKPOINT_NAME, offset, length)
        for name, (offset, length) in tensors.offsets(initial).items()
    }

    def place(name: str, value: Array) -> External | None:
        public = problem.weights.get(name)
        return frozen.place(value) if public is None else places[public]

    inputs = {tensor: public for public, tensor in loaded.inputs.items()}
    outputs = {public: now[tensor] for public, tensor in loaded.outputs.items()}
    return write(graph, Interface(inputs, outputs), place)
