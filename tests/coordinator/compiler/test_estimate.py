"""What a plan is said to cost, against counts by hand and against a real training child."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from coordinator.compiler.boards import BOARDS
from coordinator.compiler.cost import cost, flops
from coordinator.compiler.errors import CompileError
from coordinator.compiler.estimate import RUNTIME_BYTES, estimate, largest_batch
from coordinator.compiler.graph import FLOAT32, Node, TensorType
from coordinator.compiler.liveness import peak
from coordinator.compiler.plan import CompiledPlan
from coordinator.compiler.sizes import Sized, sized
from edge_agent import config
from edge_agent.job import Job, Outcome, Report
from examples.mnist.models import cnn, two_nn
from tests.coordinator.compiler.building import compiled, dense, model, node, task, weights
from tests.edge_agent.plans import LINE, points, saved
from tests.edge_agent.samples import assignment
from wire.plan import CHECKPOINT_NAME
from wire.sizes import Size

PROFILES = Path(config.__file__).parent / "profiles"

ADAMW = 'kind = "adamw"'


def graph_of(*nodes: Node, **shapes: tuple[int, ...]) -> Sized:
    """Nodes over float32 tensors of these shapes; `x` goes in and the last output comes out."""
    types = {name: TensorType(FLOAT32, shape) for name, shape in shapes.items()}
    return Sized(nodes, ("x",), (nodes[-1].outputs[0],), {}, frozenset(), types)


def op(op: str, inputs: str, output: str, **attributes: object) -> Node:
    return Node(op, tuple(inputs.split()), (output,), attributes)


@pytest.mark.parametrize(("made", "shapes", "count"), [
    (op("MatMul", "x w", "y"), {"x": (7, 3, 4), "w": (4, 5), "y": (7, 3, 5)}, 2 * 7 * 3 * 4 * 5),
    (op("Gemm", "x w", "y"), {"x": (3, 4), "w": (4, 5), "y": (3, 5)}, 2 * 3 * 4 * 5),
    (op("Gemm", "x w c", "y", transA=1),
     {"x": (4, 3), "w": (4, 5), "c": (5,), "y": (3, 5)}, 2 * 3 * 4 * 5 + 3 * 5),
    (op("Conv", "x w", "y", group=2),
     {"x": (2, 4, 8, 8), "w": (6, 2, 3, 3), "y": (2, 6, 6, 6)}, 2 * 2 * 6 * 36 * 2 * 9),
    (op("ConvTranspose", "x w", "y"),
     {"x": (2, 6, 6, 6), "w": (6, 2, 3, 3), "y": (2, 2, 8, 8)}, 2 * 2 * 6 * 36 * 2 * 9),
    (op("MaxPool", "x", "y", kernel_shape=[2, 2]), {"x": (1, 3, 8, 8), "y": (1, 3, 4, 4)}, 3 * 64),
    (op("ReduceSum", "x", "y"), {"x": (3, 4), "y": (1, 4)}, 12),
    (op("Add", "x w", "y"), {"x": (3, 4), "w": (4,), "y": (3, 4)}, 12),
    (op("Exp", "x", "y"), {"x": (3, 4), "y": (3, 4)}, 120),
    (op("Einsum", "x w", "y", equation="bij, bjk -> bik"),
     {"x": (2, 3, 4), "w": (2, 4, 5), "y": (2, 3, 5)}, 2 * 2 * 3 * 4 * 5),
    (op("Reshape", "x s", "y"), {"x": (3, 4), "s": (1,), "y": (12,)}, 0),
    (op("Transpose", "x", "y"), {"x": (3, 4), "y": (4, 3)}, 0),
])  # fmt: skip
def test_operations_by_hand(made: Node, shapes: dict[str, tuple[int, ...]], count: int) -> None:
    assert flops(graph_of(made, **shapes), made) == count


def test_bytes_are_those_read_and_written() -> None:
    graph = graph_of(
        op("Add", "x w", "y"), op("Flatten", "y", "z"), x=(3, 4), w=(4,), y=(3, 4), z=(12,)
    )
    assert cost(graph).bytes == 4 * (12 + 4 + 12)
    assert cost(graph).nodes == 1


def test_what_is_live_at_once() -> None:
    """x -> a -> b -> out: a and b live together once, and out has memory of its own."""
    shapes = {"x": (100,), "a": (1000,), "b": (10,), "out": (5000,)}
    graph = graph_of(
        op("Expand", "x", "a"), op("ReduceSum", "a", "b"), op("Tile", "b", "out"), **shapes
    )
    assert peak(graph).bytes == 4 * (1000 + 10)
    assert peak(graph).node == "ReduceSum"
    assert peak(graph).largest == 4000


def test_what_is_written_over_counts_once() -> None:
    shapes = {"x": (100,), "a": (1000,), "b": (1000,), "c": (1000,), "out": (1,)}
    chain = [op("Expand", "x", "a"), op("Relu", "a", "b"), op("Flatten", "b", "c")]
    graph = graph_of(*chain, op("ReduceSum", "c", "out"), **shapes)
    assert peak(graph).bytes == 4000


def test_a_step_of_a_perceptron(tmp_path: Path) -> None:
    """Two products forward, three backward (none for the gradient of the input), 2 m n k each."""
    plan = compiled(dense(hidden=50, classes=10, features=100), tmp_path)
    found = estimate(plan.manifest, plan.files)
    products = 10 * 100 * 50 * 2 * 2 + 10 * 50 * 10 * 2 * 3
    assert products < found.flops_by_operator["Gemm"] < 1.2 * products
    assert found.steps == 60
    assert found.memory.weights == 4 * (100 * 50 + 50 + 50 * 10 + 10)
    assert found.unknown == 0


def test_a_larger_batch_takes_more(tmp_path: Path) -> None:
    plan = compiled(dense(hidden=50), tmp_path)
    small, large = (
        estimate(msgspec.structs.replace(plan.manifest, batch=b), plan.files) for b in (10, 1000)
    )
    assert 50 < large.flops / small.flops < 110
    assert 50 < large.memory.live / small.memory.live < 110
    assert large.steps == 1
    board = large.boards[1]
    assert board.step[0] < board.step[1]
    assert board.fits


def test_the_batch_that_fits(tmp_path: Path) -> None:
    plan = compiled(dense(hidden=1000), tmp_path)
    manifest = msgspec.structs.replace(plan.manifest, batch=65_536)
    limit = BOARDS[1].limit
    evaluation = estimate(manifest, plan.files).memory.evaluation
    best = largest_batch(manifest, plan.files, evaluation, limit)
    fits = [
        estimate(msgspec.structs.replace(manifest, batch=b), plan.files).boards[1].fits
        for b in (best, 2 * best)
    ]
    assert fits == [True, False]
    assert largest_batch(manifest, plan.files, evaluation, RUNTIME_BYTES) == 0


def test_every_tensor_of_a_plan_has_a_size(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w b", "h", pads=[1, 1, 1, 1]),
        node("MaxPool", "h", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("Gemm", "f v", "out"),
    ]
    made = model(nodes, weights(w=(4, 1, 3, 3), b=(4,), v=(64, 3)), ("N", 1, 8, 8))
    plan = compiled(made, tmp_path, task(optimizer=ADAMW))
    assert sized(plan.files["train.onnx"], 7).unknown == ()


def test_boards_have_the_limits_of_their_profiles() -> None:
    """The coordinator may not import the agent: the table repeats what the profiles say."""
    for board, name in zip(BOARDS, ("raspberry-pi-4", "raspberry-pi-zero-2-w"), strict=True):
        profile = tomllib.loads((PROFILES / f"{name}.toml").read_text())
        assert Size.parse(profile["training"]["max_memory"]) == board.limit
        assert board.limit <= board.memory / 2
        assert all(r.best >= r.worst for r in (board.flops, board.traffic))


def examples_of(plan: CompiledPlan, folder: Path, count: int) -> Path:
    """A folder with random examples for a plan."""
    rng = np.random.default_rng(1)
    arrays = {
        i.name: rng.integers(0, i.classes, count)
        if i.classes
        else rng.random((count, *i.shape), np.float32)
        for i in plan.manifest.inputs
    }
    folder.mkdir()
    np.savez(folder / "examples.npz", **arrays)
    return folder


def peak_of(plan: Path, examples: Path) -> int:
    """The most memory that a real training child had."""
    job = Job(
        plan=str(plan),
        model=str(plan / CHECKPOINT_NAME),
        examples=str(examples),
        columns={},
        hold_out=0.0,
        threads=1,
        evaluate=False,
        assignment=msgspec.structs.replace(assignment(), codec="float32"),
        update=str(examples.parent / "update"),
    )
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edge_agent.worker", str(os.getpid())],
        input=msgspec.json.encode(job),
        capture_output=True,
        timeout=100,  # at idle priority, on a busy machine
        check=True,
    )
    report = msgspec.json.decode(done.stdout, type=Report)
    assert report.outcome is Outcome.DONE, report
    return report.peak_bytes


@pytest.mark.skipif(sys.platform != "linux", reason="a process's peak is read from /proc")
@pytest.mark.parametrize("name", ["2nn", "cnn", "adamw"])
def test_memory_is_about_that_of_a_real_training_child(name: str, tmp_path: Path) -> None:
    """Within a half, for three models that take from 6 to 110 MB."""
    made = {"2nn": two_nn, "cnn": cnn, "adamw": lambda: dense(2000, 10, 784)}[name]()
    spec = task(optimizer=ADAMW) if name == "adamw" else task()
    plan = compiled(made, tmp_path, spec)
    base = peak_of(LINE, saved(tmp_path / "line", points()))
    measured = peak_of(tmp_path / "plan", examples_of(plan, tmp_path / "examples", 60)) - base
    memory = estimate(plan.manifest, plan.files).memory
    said = memory.total - memory.examples * 9 // 10
    assert 2 / 3 < said / measured < 3 / 2, (said / 1e6, measured / 1e6)


def test_a_graph_that_is_none_is_an_error() -> None:
    with pytest.raises(CompileError, match="cannot be read"):
        sized(b"hello", 1)
