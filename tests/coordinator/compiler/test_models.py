"""Whole models, as torch's two exporters and skl2onnx write them: each compiles with a task that
suits it, has the right gradients, trains with the agent's own code, and stays the model it was.

The table is `zoo.py`'s. On a device's stock runtime `tests.agreement` trains the same plans.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from shutil import copyfile

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from coordinator import taskfile
from coordinator.compiler.compile import CompiledPlan, compile_beside, compile_task
from coordinator.compiler.folder import write_plan_dir
from coordinator.compiler.graph import OPSET
from edge_agent.examples import Examples
from edge_agent.session import Trainer
from tests.coordinator.compiler import reference, zoo
from tests.coordinator.compiler.building import run, session
from tests.coordinator.compiler.checking import Feeds, Gradients, close
from wire import checkpoint

RELATIVE = 1e-4
ROUNDING = 1e-6
"""How far a gradient may be off in any case, as a part of the model's largest: that of a bias
before a norm, which the loss does not depend on, is nothing but rounding."""
NO_KERNEL = {"AveragePoolGrad", "ConvTransposeGrad", "ResizeGrad"}
"""Where the training build crashes or has no kernel: finite differences are the proof."""


@dataclass(frozen=True)
class Built:
    """A case, compiled; its plan is in `folder / "plan"`."""

    case: zoo.Case
    plan: CompiledPlan
    task: taskfile.TaskFile
    folder: Path

    @cached_property
    def proto(self) -> onnx.ModelProto:
        return onnx.load(zoo.EXPORTED / f"{self.case.file}.onnx")

    def examples(self, batch: int = zoo.BATCH) -> Feeds:
        return zoo.examples(self.plan.manifest.inputs, self.case.below, batch)


@pytest.fixture(scope="module", params=zoo.CASES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All checks of a model share one compilation."""
    name, folder = request.param, tmp_path_factory.mktemp("model")
    case = zoo.CASES[name]
    copyfile(zoo.EXPORTED / f"{case.file}.onnx", folder / f"{name}.onnx")
    task = taskfile.parse(case.toml(name))
    assert isinstance(task, taskfile.TaskFile)
    plan = compile_task(task, folder / f"{name}.onnx")
    write_plan_dir(plan, folder / "plan")
    return Built(case, plan, task, folder)


def test_gradients(built: Built, tmp_path: Path) -> None:
    """As the training build's kernels have them, or as differences in double precision."""
    gradients = Gradients(built.proto, built.task, tmp_path)
    # Fresh biases are 0, which may be just where a function has its corner.
    rng = np.random.default_rng(3)
    gradients.values = {
        w: value + rng.normal(size=value.shape, scale=0.01).astype(np.float32)
        for w, value in gradients.values.items()
    }
    examples = gradients.examples(3) | built.examples(3)
    lowered = gradients.lowered(examples)
    assert set(lowered) == set(gradients.moved.values())
    largest = max(float(np.linalg.norm(value)) for value in lowered.values())
    assert largest > 1e-3
    rounding = ROUNDING * largest
    if gradients.own or not NO_KERNEL.isdisjoint(node.op for node in gradients.raw.nodes):
        gradients.check_differences(examples, lowered, rounding=rounding)
        return
    expected = gradients.training_build(examples)
    for name, value in lowered.items():
        allowed = RELATIVE * float(np.abs(expected[name]).max()) + rounding
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=allowed, err_msg=name)


def test_it_trains(built: Built) -> None:
    """With the agent's own code, on one batch: every weight moves, and the loss falls."""
    manifest = built.plan.manifest
    start = checkpoint.read(built.plan.initial, manifest.parameters)
    made = Trainer(manifest, built.folder / "plan", start, threads=1)
    batch = Examples(built.examples())
    before = made.weights()
    losses = [made.step(batch) for _ in range(built.case.steps + 1)]
    assert losses[-1] < built.case.falls * losses[0]
    after = made.weights()
    assert [n for n in before if (before[n] == after[n]).all()] == []


def test_the_model_stays_what_it_was(built: Built) -> None:
    """`model.onnx` with the first checkpoint gives what the exported file gives."""
    examples = built.examples(5)
    found = run(session(built.folder / "plan" / "model.onnx"), examples)
    expected = outputs_of(as_used(built.proto), examples)
    assert set(found) == set(expected)
    for name, value in expected.items():
        close(found[name], value, RELATIVE)


@pytest.mark.parametrize("name", zoo.STATISTICS)
def test_statistics_train_alike(name: str, tmp_path: Path) -> None:
    """Rounds of the same examples: the loss falls, and comes to rest."""
    case = zoo.STATISTICS[name]
    plan = compile_beside(taskfile.parse(case.toml(name)), tmp_path)
    write_plan_dir(plan, tmp_path / "plan")
    x = zoo.examples(plan.manifest.inputs, {}, 40)["x"]
    batch = Examples({"x": 3 * x - 2})
    weights, losses = checkpoint.read(plan.initial, plan.manifest.parameters), []
    for _ in range(12):
        made = Trainer(plan.manifest, tmp_path / "plan", weights, threads=1)
        losses.append(made.step(batch))
        weights = made.weights()
    assert losses[-1] < 0.9 * losses[0]
    assert losses[-1] == pytest.approx(losses[-2])


def test_every_exported_file_has_a_case() -> None:
    files = {path.relative_to(zoo.EXPORTED).as_posix() for path in zoo.EXPORTED.glob("*/*.onnx")}
    assert {f"{case.file}.onnx" for case in zoo.CASES.values()} == files
    assert len({Path(file).stem for file in files} | set(zoo.STATISTICS)) >= 30


def as_used(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as it is when it does not train, if it was exported as it trains."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        if node.op_type == "Dropout":
            node.op_type = "Identity"
            del node.input[1:], node.output[1:], node.attribute[:]
        if node.op_type == "BatchNormalization":
            del node.output[1:]
            kept = [a for a in node.attribute if a.name != "training_mode"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return made


def outputs_of(model: onnx.ModelProto, feeds: Feeds) -> Feeds:
    """By this runtime, or by ONNX's reference if the runtime does not know the operator set."""
    given = {i.name: feeds[i.name] for i in model.graph.input}
    names = [o.name for o in model.graph.output]
    if max(o.version for o in model.opset_import) > OPSET:
        found = ReferenceEvaluator(model, new_ops=reference.OPERATORS).run(None, given)
    else:
        found = session(model.SerializeToString()).run(None, given)
    return {name: _table(value) for name, value in zip(names, found, strict=True)}


def _table(value: np.ndarray | list[dict[int, float]]) -> np.ndarray:
    """Probabilities, which skl2onnx makes a list of tables of."""
    if isinstance(value, list):
        return np.array([list(row.values()) for row in value], np.float32)
    return value
