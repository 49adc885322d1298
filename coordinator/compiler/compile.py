"""The plan compiler: from a task file and a model to a plan that stock ONNX Runtime trains.

The steps, in order: read the model (`model.py`); put adapters beside matrices (`lora.py`); choose
the output, the weights to train and the names (`problem.py`, `trained.py`); write operators as they
are in training (`modes.py`), and as the gradient builder wants them (`lower.expand`); add the
losses (`losses/`); differentiate (`gradient.py`); lower what only the training build knows
(`lower.lower`, `operators/`); add the proximal term (`proximal.py`) or SCAFFOLD's corrections
(`scaffold.py`), clip the gradients (`clipping.py`) and add the optimiser's step (`optimizers.py`);
simplify and fuse (`simplify.py`, `fuse.py`); the same once more for what a device does by itself
(`personal.py`); give public names and write the files (`assemble.py`).
That no example depends on the others in its batch, a run shows (`mixing.py`).
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from coordinator.aggregation.options import CONTROL, Scaffold
from coordinator.compiler import (
    boundary,
    checks,
    gradient,
    lora,
    mixing,
    model,
    modes,
    simplify,
)
from coordinator.compiler.assemble import FrozenFile, Interface, write
from coordinator.compiler.convert import External
from coordinator.compiler.finish import finish
from coordinator.compiler.graph import OPSET, Array, Emitter
from coordinator.compiler.metrics import measured
from coordinator.compiler.personal import personal_graph
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.problem import Problem, pose
from coordinator.compiler.rates import schedule_of
from coordinator.compiler.statistics.plan import compile_statistics
from coordinator.compiler.training import training_graph
from coordinator.taskfile import StatisticsFile, TaskFile
from wire import checkpoint, tensors
from wire.digest import digest_of
from wire.plan import (
    CHECKPOINT_NAME,
    FROZEN_NAME,
    PERSONAL_NAME,
    FileName,
    Manifest,
    Parameter,
    PlanFile,
    parse_manifest,
)

_FLOAT32 = np.dtype(np.float32)


@boundary.one_error
def compile_beside(task: TaskFile | StatisticsFile, folder: Path) -> CompiledPlan:
    """Compile a task of any kind. The files that it names, its model or its first centres, are
    looked for in `folder`, where the task file is. Raises `CompileError` as `compile_task` does."""
    if isinstance(task, StatisticsFile):
        return compile_statistics(task, folder)
    return compile_task(task, folder / task.model.file)


@boundary.one_error
def compile_task(task: TaskFile, model_path: Path) -> CompiledPlan:
    """Compile a task that trains a model. `model_path` is where `task.model.file` is. The plan's
    `warnings` say what deserves a second look.

    The same task and model give the same bytes. Raises `CompileError` for anything the person who
    wrote the task or exported the model can put right.
    """
    gradient.training_build()
    raw = model.load(model_path)
    checks.check_sizes(raw)
    loaded = lora.adapted(raw, task.model.lora)
    problem = pose(task, loaded)
    checks.check_labels(problem.inputs.values())
    frozen = FrozenFile()
    values = {w: loaded.values[w] for w in problem.weights}
    given = _given(task, problem, values)
    zeros = {p.name: np.zeros(p.shape, _FLOAT32) for p in given}
    initial = checkpoint.write({problem.weights[w]: v for w, v in values.items()} | zeros)
    train = training_graph(task, problem, values, frozen)
    personal = personal_graph(task, loaded, problem, values, frozen)
    files: dict[FileName, bytes] = {
        "train.onnx": train.data,
        "evaluate.onnx": _evaluate(task, problem, frozen),
        "model.onnx": _model(loaded, problem, initial, frozen),
    }
    if personal:
        files[PERSONAL_NAME] = personal.data
    if constants := frozen.to_bytes():
        files[FROZEN_NAME] = constants
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
        personal=personal.manifest if personal else msgspec.UNSET,
    )
    warnings = (
        *checks.unused(
            loaded, [loss.output for loss in task.losses], problem.weights, task.model.frozen
        ),
        *checks.memory(manifest, files),
    )
    _check_examples(problem, values)  # now that nothing is too large to be run
    return CompiledPlan(parse_manifest(manifest.to_bytes()), files, initial, warnings)


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
    return finish(graph, inputs, outputs, frozen)


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
