"""The plan compiler: from a task file and a model to a plan that stock ONNX Runtime trains.

The steps, in order: read the model (`model.py`); choose the output, the weights to train and the
names (`problem.py`, `trained.py`); write operators as the gradient builder wants them
(`lower.expand`); add the loss (`losses.py`); differentiate (`gradient.py`); lower what only the
training build knows (`lower.lower`, `operators/`); add the proximal term (`proximal.py`) and the
optimiser's step (`optimizers.py`); simplify and fuse (`simplify.py`, `fuse.py`); give public names
and write the files (`assemble.py`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coordinator.compiler import (
    boundary,
    checks,
    fuse,
    gradient,
    lower,
    model,
    proximal,
    shapes,
    simplify,
)
from coordinator.compiler.assemble import FrozenFile, Interface, write
from coordinator.compiler.convert import External
from coordinator.compiler.graph import OPSET, Array, Emitter, Graph, TensorType
from coordinator.compiler.metrics import METRICS
from coordinator.compiler.optimizers import Optimizer, Step, optimizer_of
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.problem import Problem, pose
from coordinator.taskfile import TaskFile
from wire import checkpoint, tensors
from wire.digest import digest_of
from wire.plan import (
    BASE,
    CHECKPOINT_NAME,
    FileName,
    Manifest,
    Parameter,
    PlanFile,
    Slot,
    parse_manifest,
)

_FLOAT32 = np.dtype(np.float32)
_SCALAR = TensorType(_FLOAT32, ())


@boundary.one_error
def compile_task(task: TaskFile, model_path: Path) -> CompiledPlan:
    """Compile a task. `model_path` is where `task.model.file` is. The plan's `warnings` say what
    deserves a second look.

    The same task and model give the same bytes. Raises `CompileError` for anything the person who
    wrote the task or exported the model can put right.
    """
    gradient.training_build()
    loaded = model.load(model_path)
    checks.check_sizes(loaded)
    problem = pose(task, loaded)
    checks.check_labels(problem.inputs.values())
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
        files["frozen.bin"] = constants
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
        tolerance=task.keep.tolerance or msgspec.UNSET,
        proximal=task.training.proximal or msgspec.UNSET,
        lazy=task.upload.lazy or msgspec.UNSET,
    )
    warnings = (
        *checks.unused(loaded, [task.loss.output], problem.weights, task.model.frozen),
        *checks.memory(manifest, files),
    )
    return CompiledPlan(parse_manifest(manifest.to_bytes()), files, initial, warnings)


def differentiated(problem: Problem, values: Mapping[str, Array]) -> tuple[Graph, str]:
    """The model, its mean loss and their gradient, not lowered yet; and the loss's tensor.

    The gradient of each weight of `values` is the tensor `<weight>_grad`.
    """
    graph = problem.graph.copy()
    loss = problem.loss.mean(Emitter(graph, "loss"), problem.output, problem.target)
    examples = {tensor: graph.types[tensor] for tensor in problem.inputs}
    shapes.infer(graph, (*examples, *values))
    simplify.prune(graph, [loss])
    graph = gradient.differentiate(graph, examples, values, loss)
    made = graph.producers()
    checks.check_gradients([graph.label(w) for w in values if w + gradient.SUFFIX not in made])
    return graph, loss


def _train(
    task: TaskFile, problem: Problem, values: Mapping[str, Array], frozen: FrozenFile
) -> tuple[bytes, list[Slot]]:
    """`train.onnx`, and the optimiser's state. `values` are the trained weights'."""
    graph, loss = differentiated(problem, values)
    lower.lower(graph)
    optimizer = optimizer_of(task.optimizer)
    rate = Emitter(graph).name()
    graph.types[rate] = _SCALAR
    seed = _seeded(graph, loss, optimizer, rate)
    gradients = {w: w + gradient.SUFFIX for w in problem.weights}
    bases: dict[str, str] = {}
    if mu := task.training.proximal:
        emit = Emitter(graph, "proximal")
        gradients, bases = proximal.pulled(emit, mu, seed, gradients)
    step = optimizer.step(Emitter(graph, "optimizer"), rate, gradients)

    inputs = {tensor: entry.name for tensor, entry in problem.inputs.items()}
    inputs |= problem.weights
    inputs |= {base: BASE + problem.weights[w] for w, base in bases.items()}
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


def _seeded(graph: Graph, loss: str, optimizer: Optimizer[Any], rate: str) -> str | None:
    """Put the optimiser's seed in the place of the loss's gradient by itself; returns the seed."""
    start = len(graph.nodes)
    seed = optimizer.seed(Emitter(graph, "loss"), rate)
    if seed is None:
        return None
    first, rest = graph.nodes[start:], graph.nodes[:start]
    own = loss + gradient.SUFFIX
    graph.nodes = [*first, *(node.renamed({own: seed}) for node in rest)]
    del graph.constants[own]
    return seed


def _state(
    graph: Graph, problem: Problem, step: Step, inputs: dict[str, str]
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


def _evaluate(task: TaskFile, problem: Problem, frozen: FrozenFile) -> bytes:
    """`evaluate.onnx`: the metrics' sums over a batch."""
    graph = problem.graph.copy()
    emit = Emitter(graph, "metric")
    outputs = {
        f"metric/{name}": METRICS[name].total(emit, problem.loss, problem.output, problem.target)
        for name in task.training.metrics
    }
    inputs = {tensor: entry.name for tensor, entry in problem.inputs.items()} | problem.weights
    return _finish(graph, inputs, outputs, frozen)


def _model(loaded: model.Model, problem: Problem, initial: bytes, frozen: FrozenFile) -> bytes:
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
