"""Three ways to the same gradient: lowered, as the training build has it, and by differences."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import UNSET
from onnx import helper
from onnx.reference import ReferenceEvaluator

from coordinator.compiler import convert, lower, metrics, modes, shapes, simplify
from coordinator.compiler import model as models
from coordinator.compiler.assemble import Interface, write
from coordinator.compiler.convert import Signature
from coordinator.compiler.gradient import OWN
from coordinator.compiler.graph import FLOAT, FLOAT32, Emitter, Graph, TensorType
from coordinator.compiler.problem import Problem, pose
from coordinator.compiler.training import differentiated
from coordinator.taskfile import TaskFile
from tests.coordinator.compiler import reference
from tests.coordinator.compiler.building import Shape, node, run, session, weights

DOUBLE = 11


Feeds = dict[str, np.ndarray]
Case = tuple[Sequence[onnx.NodeProto], Mapping[str, Any], Shape]
"""A model for a gradient: its nodes from `x` to `out`, its weights and constants, and x's shape."""


def above(*nodes: onnx.NodeProto, x: Shape = ("N", 4), **values: Any) -> Case:
    """`nodes` go from `h`, a dense layer over x, to `out`; arrays are constants, tuples the shapes
    of weights."""
    width = int(x[-1])
    shapes = {n: v for n, v in values.items() if isinstance(v, tuple)}
    constants = {n: v for n, v in values.items() if n not in shapes}
    start = node("MatMul", "x w0", "h", "under")
    return [start, *nodes], {**weights(w0=(width, width), **shapes), **constants}, x


class Gradients:
    """A model and a task's loss, and the gradients of the mean loss on one batch.

    Gradients are by the public name of their weight.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        spec: TaskFile,
        tmp_path: Path,
        load: Callable[[Path], models.Model] = models.load,
    ) -> None:
        path = tmp_path / "model.onnx"
        onnx.save(proto, path)
        loaded = load(path)
        self.problem: Problem = pose(spec, loaded)
        self.values = {w: loaded.values[w] for w in self.problem.weights}
        self.raw, self.loss = differentiated(self.problem, self.values)

    @property
    def names(self) -> dict[str, str]:
        """Public input names by tensor."""
        given = {t: i.name for t, i in self.problem.inputs.items()} | self.problem.weights
        return given | {t: f"draw {i}" for i, t in enumerate(self.raw.draws)}

    @property
    def moved(self) -> dict[str, str]:
        """The weights that have a gradient, with their public names."""
        problem = self.problem
        return {w: name for w, name in problem.weights.items() if w not in problem.updates}

    @property
    def own(self) -> bool:
        """Whether a gradient is ours, so that the training build cannot run the graph."""
        return any(node.op == OWN for node in self.raw.nodes)

    def examples(self, batch: int, seed: int = 1) -> Feeds:
        """Random example inputs, by public name."""
        rng = np.random.default_rng(seed)
        feeds = {}
        for entry in self.problem.inputs.values():
            shape = (batch, *entry.shape)
            if entry.classes is not None:
                feeds[entry.name] = rng.integers(0, entry.classes, shape)
            elif entry.range is not UNSET:
                feeds[entry.name] = rng.uniform(*entry.range, shape).astype(entry.dtype)
            else:
                feeds[entry.name] = rng.normal(size=shape).astype(entry.dtype)
        for tensor, each in self.raw.draws.items():
            feeds[self.names[tensor]] = rng.random((batch, *each), dtype=np.float32)
        return feeds

    def feeds(self, examples: Feeds) -> Feeds:
        """Examples and weights, by public name."""
        return examples | {name: self.values[w] for w, name in self.problem.weights.items()}

    def lowered(self, examples: Feeds) -> Feeds:
        """By the graph of standard operators, run by the installed runtime."""
        graph = self.raw.copy()
        lower.lower(graph)
        shapes.update(graph, self.names)
        wanted = {f"d {name}": f"{w}_grad" for w, name in self.moved.items()}
        now = simplify.simplify(graph, wanted.values())
        outputs = {public: now[tensor] for public, tensor in wanted.items()}
        shapes.update(graph, self.names)
        data = write(graph, Interface(self.names, outputs), lambda name, value: None)
        assert {o.domain for o in onnx.load_from_string(data).opset_import} == {""}
        found = run(session(data), self.feeds(examples))
        return {name.removeprefix("d "): value for name, value in found.items()}

    def training_build(self, examples: Feeds) -> Feeds:
        """By the gradient graph as it was built. Raises if a kernel is missing."""
        graph = self.raw.copy()
        outputs = {f"{w}_grad": TensorType(FLOAT32, self.values[w].shape) for w in self.moved}
        signature = Signature({t: graph.types[t] for t in self.names}, outputs)
        proto = convert.model_of(graph, signature)
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        # MaxPoolGrad has no type inference: a model that leaves its type out crashes the runtime.
        inner = {o for n in graph.nodes for o in n.outputs} - set(outputs)
        proto.graph.value_info.extend(
            convert.info_of(n, graph.types[n]) for n in sorted(inner & set(graph.types))
        )
        feeds = self.feeds(examples)
        made = session(proto.SerializeToString())
        found = run(made, {t: feeds[n] for t, n in self.names.items()})
        return {name: found[f"{w}_grad"] for w, name in self.moved.items()}

    def check_differences(
        self, examples: Feeds, gradients: Feeds, step: float = 1e-6, rounding: float = 1e-8
    ) -> None:
        """Assert that the gradients agree with central differences, in double precision.

        Each weight is moved along random directions, and along its gradient. `rounding` is how far
        a gradient may be off however short it is.
        """
        loss = self._double_loss(examples)
        rng = np.random.default_rng(2)
        for w, name in self.moved.items():
            gradient = gradients[name].astype(np.float64)
            size = max(float(np.linalg.norm(gradient)), 1e-12)
            for direction in (gradient / size, rng.normal(size=gradient.shape)):
                value = self.values[w].astype(np.float64)
                up, down = loss({w: value + step * direction}), loss({w: value - step * direction})
                slope = (up - down) / (2 * step)
                expected = float((gradient * direction).sum())
                scale = max(float(np.linalg.norm(direction)), 1.0)
                allowed = 2e-5 * size * scale + rounding
                assert abs(slope - expected) <= allowed, (name, slope, expected)

    def _double_loss(self, examples: Feeds):  # type: ignore[no-untyped-def]
        graph: Graph = self.problem.graph.copy()
        modes.for_training(graph)
        emit = Emitter(graph)
        (measured,) = metrics.measured(["loss"], self.problem.terms)
        total = measured.totals(emit)
        graph.constants = {
            n: v.astype(np.float64) if v.dtype == np.float32 else v
            for n, v in graph.constants.items()
        }
        double = np.dtype(np.float64)
        types = {t: graph.types[t] for t in self.names}
        inputs = {
            t: TensorType(double, k.shape) if k.dtype == np.float32 else k for t, k in types.items()
        }
        signature = Signature(inputs, {total: TensorType(double, measured.metric.totals)})
        graph.nodes = [
            replace(node, attributes={**node.attributes, "to": DOUBLE})
            if node.op == "Cast" and node.attributes["to"] == FLOAT
            else node
            for node in graph.nodes
        ]
        evaluator = ReferenceEvaluator(
            convert.model_of(graph, signature), new_ops=reference.OPERATORS
        )
        feeds = self.feeds(examples)
        base = {
            t: feeds[n].astype(np.float64) if feeds[n].dtype == np.float32 else feeds[n]
            for t, n in self.names.items()
        }
        batch = len(next(iter(examples.values())))

        def mean(changed: Feeds) -> float:
            found = np.asarray(evaluator.run([total], base | changed)[0])
            totals = float(found) if found.ndim == 0 else found.ravel().tolist()
            return measured.metric.value(totals, batch)

        return mean


def close(found: np.ndarray, expected: np.ndarray, relative: float = 1e-5) -> None:
    """Assert agreement relative to the largest element."""
    assert found.shape == expected.shape
    largest = float(np.abs(expected).max()) or 1.0
    np.testing.assert_allclose(found, expected, rtol=relative, atol=relative * largest)


def check(gradients: Gradients, batch: int = 3, kernels: bool = True) -> None:
    """Assert that the lowered gradients, not all of them 0, are those of differences and, where its
    `kernels` can run them, those of the training build."""
    examples = gradients.examples(batch)
    lowered = gradients.lowered(examples)
    assert any(np.abs(value).max() > 1e-4 for value in lowered.values())
    gradients.check_differences(examples, lowered)
    if kernels and not gradients.own:
        expected = gradients.training_build(examples)
        for name, value in lowered.items():
            close(value, expected[name])
