"""The plan compiler: from a task file and a model to a plan that stock ONNX Runtime trains.

The steps, in order: read the model (`model.py`); choose the output and the weights to train
(`trained.py`); write operators as the gradient builder wants them (`lower.expand`); add the loss
(`losses.py`); differentiate (`gradient.py`); lower what only the training build knows
(`lower.lower`, `operators/`); add the optimiser's step (`optimizers.py`); simplify and fuse
(`simplify.py`, `fuse.py`); give public names and write the files (`assemble.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator import taskfile
from coordinator.compiler import fuse, gradient, losses, lower, model, shapes, simplify, trained
from coordinator.compiler.assemble import FROZEN_NAME, FrozenFile, Interface, write
from coordinator.compiler.convert import External
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import (
    BATCH,
    OPSET,
    Array,
    Emitter,
    Graph,
    TensorType,
)
from coordinator.compiler.losses import Loss
from coordinator.compiler.metrics import METRICS
from coordinator.compiler.naming import Names, check_input
from coordinator.compiler.optimizers import Optimizer, Step, optimizer_of
from coordinator.taskfile import TaskFile
from wire import checkpoint, tensors
from wire.digest import digest_of
from wire.plan import (
    CHECKPOINT_NAME,
    FileName,
    Input,
    Manifest,
    Parameter,
    PlanFile,
    Slot,
    parse_manifest,
)

MANIFEST_NAME = "manifest.json"
_FLOAT32 = np.dtype(np.float32)
_SCALAR = TensorType(_FLOAT32, ())


@dataclass(frozen=True)
class CompiledPlan:
    """A plan, its files, and the model's own weights as the first checkpoint."""

    manifest: Manifest
    files: dict[FileName, bytes]
    initial: bytes


@dataclass(frozen=True)
class _Problem:
    """What is to be trained: tensors of `graph`, which holds the model and nothing else yet.

    `inputs` are the example inputs by their tensors, the labels' among them under `target`;
    `weights` are the trained weights' public names by theirs.
    """

    graph: Graph
    loss: Loss[taskfile.Section]
    output: str
    target: str
    inputs: dict[str, Input]
    weights: dict[str, str]
    names: Names


def compile_task(task: TaskFile, model_path: Path) -> CompiledPlan:
    """Compile a task. `model_path` is where `task.model.file` is.

    The same task and model give the same bytes. Raises `CompileError` for anything the person who
    wrote the task or exported the model can put right.
    """
    gradient.training_build()
    loaded = model.load(model_path)
    problem = _problem(task, loaded)
    frozen = FrozenFile()
    values = {w: loaded.values[w] for w in problem.weights}
    initial = checkpoint.write({problem.weights[w]: v for w, v in values.items()})
    train, slots = _train(task, problem, values, frozen)
    files: dict[FileName, bytes] = {
        "train.onnx": train,
        "evaluate.onnx": _evaluate(task, problem, frozen),
        "model.onnx": _model(loaded, problem, initial, frozen),
    }
    if constants := frozen.to_bytes():
        files[FROZEN_NAME] = constants
    manifest = Manifest(
        task=task.name,
        inputs=tuple(problem.inputs.values()),
        parameters=tuple(
            Parameter(name=name, shape=values[w].shape) for w, name in problem.weights.items()
        ),
        state=tuple(slots),
        metrics=tuple(METRICS[name].metric for name in task.training.metrics),
        epochs=task.training.epochs,
        batch=task.training.batch,
        learning_rate=task.optimizer.learning_rate,
        opset=OPSET,
        files={n: PlanFile(digest=digest_of(b), bytes=len(b)) for n, b in files.items()},
    )
    return CompiledPlan(parse_manifest(manifest.to_bytes()), files, initial)


def _problem(task: TaskFile, loaded: model.Model) -> _Problem:
    """Choose the output, the weights and the names; check that loss and operators suit them."""
    graph = loaded.graph.copy()
    name = _output_name(loaded, task.loss.output)
    output = _logits(graph, loaded.outputs[name], task.loss)
    weights = trained.weights(loaded, output, task.model.frozen)
    trained.check_operators(graph, weights, output)
    graph.constants |= {w: v for w, v in loaded.values.items() if w not in weights}
    lower.expand(graph)
    shapes.infer(graph, (*loaded.inputs.values(), *weights))
    simplify.prune(graph, [output])
    known = TensorType(graph.types[output].dtype, graph.shape(output))
    if known.dtype != _FLOAT32 or not known.shape or known.shape[0] != BATCH:
        raise CompileError(
            f"output {name!r} must be float32 with the batch as its first axis; it is "
            f"{known.dtype.name} of shape {list(known.shape or ())}"
        )
    graph.fixed(output)
    loss = losses.loss_of(task.loss, known, f"output {name!r}")
    used = {n for node in graph.nodes for n in node.inputs}
    inputs = {}
    for public, tensor in loaded.inputs.items():
        if tensor in used:
            check_input(public)
            kind = graph.types[tensor]
            inputs[tensor] = Input(
                name=public, dtype=kind.dtype.name, shape=graph.fixed(tensor)  # type: ignore[arg-type]
            )
    label = loss.target(task.loss.label)
    taken = {*loaded.inputs, *(loaded.weights[w] for w in weights)}
    if label.name in taken:
        raise CompileError(
            f"loss.label = {label.name!r}: the model has an input or a weight of that name; "
            "choose another name for the labels"
        )
    check_input(label.name)
    target = Emitter(graph).name()
    inputs[target] = label
    graph.types[target] = TensorType(np.dtype(label.dtype), (BATCH, *label.shape))
    names = Names(list(inputs.values()))
    public_weights = {w: names.take(loaded.weights[w]) for w in weights}
    return _Problem(graph, loss, output, target, inputs, public_weights, names)


def _output_name(loaded: model.Model, wanted: str | None) -> str:
    names = list(loaded.outputs)
    if wanted is None and len(names) == 1:
        return names[0]
    listed = ", ".join(map(repr, names))
    if wanted is None:
        raise CompileError(f"the model has several outputs: say loss.output, one of {listed}")
    if wanted not in names:
        raise CompileError(f"loss.output = {wanted!r}: the model has no such output, but {listed}")
    return wanted


def _logits(graph: Graph, output: str, loss: taskfile.Loss) -> str:
    """Where cross-entropy starts: before the model's own last softmax, if it has one.

    The loss of the probabilities is the loss of the logits, and the latter is computed well.
    """
    made = graph.producers().get(output)
    if isinstance(loss, taskfile.CrossEntropy) and made is not None and made.op == "Softmax":
        known = graph.types.get(output)
        rank = len(known.shape) if known is not None and known.shape else 0
        if made.attributes.get("axis", -1) in (-1, rank - 1):
            return made.inputs[0]
    return output


def _train(
    task: TaskFile, problem: _Problem, values: Mapping[str, Array], frozen: FrozenFile
) -> tuple[bytes, list[Slot]]:
    """`train.onnx`, and the optimiser's state. `values` are the trained weights'."""
    graph = problem.graph.copy()
    loss = problem.loss.mean(Emitter(graph, "loss"), problem.output, problem.target)
    examples = {tensor: graph.types[tensor] for tensor in problem.inputs}
    shapes.infer(graph, (*examples, *values))
    simplify.prune(graph, [loss])
    graph = gradient.differentiate(graph, examples, values, loss)
    lower.lower(graph)

    optimizer = optimizer_of(task.optimizer)
    rate = Emitter(graph).name()
    graph.types[rate] = _SCALAR
    _seeded(graph, loss, optimizer, rate)
    gradients = {w: w + gradient.SUFFIX for w in problem.weights}
    step = optimizer.step(Emitter(graph, "optimizer"), rate, gradients)

    inputs = {tensor: entry.name for tensor, entry in problem.inputs.items()}
    inputs |= problem.weights
    slots, state_outputs = _state(graph, problem, step, inputs)
    inputs[rate] = "learning_rate"
    wanted = {"loss": loss}
    wanted |= {f"next/{problem.weights[w]}": made for w, made in step.weights.items()}
    wanted |= state_outputs
    return _finish(graph, inputs, wanted, frozen), slots


def _finish(
    graph: Graph, inputs: Mapping[str, str], outputs: Mapping[str, str], frozen: FrozenFile
) -> bytes:
    shapes.update(graph, inputs)
    now = simplify.simplify(graph, outputs.values())
    shapes.update(graph, inputs)
    fuse.accumulate(graph)
    interface = Interface(inputs, {public: now[tensor] for public, tensor in outputs.items()})
    return write(graph, interface, lambda _, value: frozen.place(value))


def _seeded(graph: Graph, loss: str, optimizer: Optimizer[taskfile.Section], rate: str) -> None:
    """Put the optimiser's seed in the place of the loss's gradient by itself."""
    start = len(graph.nodes)
    seed = optimizer.seed(Emitter(graph, "loss"), rate)
    if seed is None:
        return
    first, rest = graph.nodes[start:], graph.nodes[:start]
    own = loss + gradient.SUFFIX
    graph.nodes = [*first, *(node.renamed({own: seed}) for node in rest)]
    del graph.constants[own]


def _state(
    graph: Graph, problem: _Problem, step: Step, inputs: dict[str, str]
) -> tuple[list[Slot], dict[str, str]]:
    """Name the optimiser's state: its slots, and the outputs that carry it on."""
    slots, outputs = [], {}
    for state in step.state:
        shape: tuple[int, ...] = ()
        wanted = state.kind
        if state.weight is not None:
            shape = tuple(int(n) for n in graph.shape(state.weight))
            wanted = f"{state.kind}/{problem.weights[state.weight]}"
        name = problem.names.take(wanted)
        graph.types[state.now] = TensorType(_FLOAT32, shape)
        inputs[state.now] = name
        outputs[f"next/{name}"] = state.next
        slots.append(Slot(name=name, shape=shape, fill=state.fill))
    return slots, outputs


def _evaluate(task: TaskFile, problem: _Problem, frozen: FrozenFile) -> bytes:
    """`evaluate.onnx`: the metrics' sums over a batch."""
    graph = problem.graph.copy()
    emit = Emitter(graph, "metric")
    outputs = {
        f"metric/{name}": METRICS[name].total(emit, problem.loss, problem.output, problem.target)
        for name in task.training.metrics
    }
    inputs = {tensor: entry.name for tensor, entry in problem.inputs.items()} | problem.weights
    return _finish(graph, inputs, outputs, frozen)


def _model(loaded: model.Model, problem: _Problem, initial: bytes, frozen: FrozenFile) -> bytes:
    """`model.onnx`: the model as it was, its trained weights in the checkpoint beside it."""
    graph = loaded.graph.copy()
    graph.constants |= {w: v for w, v in loaded.values.items() if w not in problem.weights}
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
