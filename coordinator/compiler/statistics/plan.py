"""The files of a statistic's plan."""

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from coordinator.compiler import shapes, simplify
from coordinator.compiler.assemble import Interface, Place, write
from coordinator.compiler.convert import External
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import BATCH, FLOAT32, OPSET, Array, Emitter, Graph, TensorType
from coordinator.compiler.naming import Names, is_reserved
from coordinator.compiler.options import statistics as options
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.state import check_in_place
from coordinator.compiler.statistics.kmeans import KMeans
from coordinator.compiler.statistics.moments import Moments
from coordinator.compiler.statistics.places import PLACES, Places
from coordinator.compiler.statistics.statistic import Statistic
from coordinator.taskfile import StatisticsFile
from wire import checkpoint, tensors
from wire.digest import digest_of
from wire.plan import (
    CHECKPOINT_NAME,
    FileName,
    Input,
    Manifest,
    Metric,
    Parameter,
    PlanFile,
    Slot,
    parse_manifest,
)

_X, _STEP = "x", "step"
Outputs = dict[str, str]
"""Tensors of a graph by public name."""
Make = Callable[[Emitter, Places], Outputs]
"""Emits a graph's outputs from its parameters; the example input is the tensor `_X`."""


def compile_statistics(task: StatisticsFile, folder: Path) -> CompiledPlan:
    """Compile a task that gathers statistics; what its file names lies in `folder`.

    The same task and files give the same bytes. Raises `CompileError`.
    """
    return _Plan(task, folder).compiled()


def _statistic_of(section: options.Statistics, folder: Path) -> Statistic:
    match section:
        case options.KMeans():
            return KMeans(section, folder)
        case options.Moments():
            return Moments(section)


class _Plan:
    """A plan in the making. `names` has the public name of each parameter, by its own."""

    def __init__(self, task: StatisticsFile, folder: Path) -> None:
        self.task = task
        self.statistic = _statistic_of(task.statistics, folder)
        _check_name(task.statistics.input, self.statistic)
        self.input = Input(name=task.statistics.input, dtype="float32", shape=task.statistics.shape)
        self.values = {n: _in_places(v) for n, v in self.statistic.initial().items()}
        names = Names([self.input])
        self.names = {name: names.take(name) for name in self.values}
        self.states = {_STEP: ()} | dict(self.statistic.state)
        self.slots = {name: names.take(name) for name in self.states}

    def compiled(self) -> CompiledPlan:
        initial = checkpoint.write({self.names[n]: v for n, v in self.values.items()})
        files: dict[FileName, bytes] = {
            "train.onnx": self._train(),
            "evaluate.onnx": self._evaluate(),
            "model.onnx": self._model(initial),
        }
        training = self.task.training
        manifest = Manifest(
            task=self.task.name,
            inputs=(self.input,),
            parameters=tuple(
                Parameter(name=self.names[n], shape=v.shape) for n, v in self.values.items()
            ),
            state=tuple(Slot(name=self.slots[n], shape=s) for n, s in self.states.items()),
            metrics=(Metric(name="loss", better="lower"),),
            epochs=training.epochs,
            batch=training.batch,
            learning_rate=1.0,  # nothing reads it
            opset=OPSET,
            files={n: PlanFile(digest=digest_of(b), bytes=len(b)) for n, b in files.items()},
            tolerance=self.task.keep.tolerance or msgspec.UNSET,
        )
        return CompiledPlan(parse_manifest(manifest.to_bytes()), files, initial)

    def _train(self) -> bytes:
        def make(emit: Emitter, places: Places) -> Outputs:
            one = emit.const(1.0)
            # Of the number that follows: what reads a slot must run before what writes it.
            number = emit.op("Add", _STEP, one)
            first = emit.op("Less", number, emit.const(1.5))
            was = places.read() | {name: name for name in self.states}
            step = self.statistic.step(emit, _X, was, first)
            written = places.written(first, step.values)
            kept = {_STEP: number, **step.state}
            next_ones = {f"next/{self.names[name]}": written[name] for name in self.values}
            next_ones |= {f"next/{self.slots[name]}": kept[name] for name in self.states}
            return {"loss": step.loss, **next_ones}

        return self._written(make, {_X: self.input.name} | self.names | self.slots)

    def _evaluate(self) -> bytes:
        def make(emit: Emitter, places: Places) -> Outputs:
            return {"metric/loss": self.statistic.total(emit, _X, places.read())}

        return self._written(make, {_X: self.input.name} | self.names)

    def _model(self, initial: bytes) -> bytes:
        """Its parameters are in the checkpoint beside it."""
        offsets = tensors.offsets(initial)
        outside = {
            name: External(CHECKPOINT_NAME, *offsets[public]) for name, public in self.names.items()
        }

        def make(emit: Emitter, places: Places) -> Outputs:
            return self.statistic.model(emit, _X, places.read())

        return self._written(make, {_X: self.input.name}, outside)

    def _written(
        self, make: Make, inputs: Mapping[str, str], outside: Mapping[str, External] | None = None
    ) -> bytes:
        """A graph with these inputs: public names by tensors."""
        graph = Graph()
        graph.types[_X] = TensorType(FLOAT32, (BATCH, *self.input.shape))
        for name, value in self.values.items():
            graph.types[name] = TensorType(FLOAT32, value.shape)
        for name, shape in self.states.items():
            graph.types[name] = TensorType(FLOAT32, shape)
        emit = Emitter(graph, "statistics")
        places = Places(emit, {name: name for name in self.values}, self.statistic.counts)
        outputs = make(emit, places)
        # Parameters are inputs while the graph is simplified: else they would be folded.
        open_inputs = tuple(dict.fromkeys((*inputs, *self.values)))
        shapes.update(graph, open_inputs)
        now = simplify.simplify(graph, outputs.values())
        shapes.update(graph, open_inputs)
        following = {n: f"next/{public}" for n, public in self.slots.items() if n in inputs}
        check_in_place(graph, {n: now[outputs[public]] for n, public in following.items()})
        if outside:
            graph.constants |= self.values
        place: Place = lambda name, _: (outside or {}).get(name)  # noqa: E731
        interface = Interface(inputs, {public: now[tensor] for public, tensor in outputs.items()})
        return write(graph, interface, place)


def _in_places(value: Array) -> Array:
    """A parameter with nothing in its second place."""
    return np.stack([value, *[np.zeros_like(value)] * (PLACES - 1)])


def _check_name(name: str, statistic: Statistic) -> None:
    if is_reserved(name) or name in statistic.outputs:
        raise CompileError(
            f"statistics.input = {name!r}: plans, or this statistic, use the name themselves; "
            "choose another"
        )
