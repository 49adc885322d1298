"""A plan as it is told and drawn."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from coordinator.compiler import picture
from coordinator.compiler.report import Upload, report_of
from coordinator.compiler.sizes import sized
from tests.coordinator.compiler.building import compiled, dense, model, node, task, weights

HOSTILE = 'x"];\nevil [label="<b>\\N'


def test_everything_of_a_plan(tmp_path: Path) -> None:
    spec = task(optimizer='kind = "adamw"', metrics=("loss", "accuracy"), frozen=["w1"])
    plan = compiled(dense(), tmp_path, spec)
    report = report_of(plan, Upload(codec="float32", bytes=99))
    assert [(t.name, t.shape, t.label, t.classes) for t in report.inputs] == [
        ("x", (4,), False, None),
        ("label", (), True, 3),
    ]
    assert [(t.name, t.dtype, t.shape) for t in report.outputs] == [("out", "float32", (3,))]
    assert [(w.name, w.size) for w in report.parameters] == [("b1", 5), ("w2", 15), ("b2", 3)]
    assert sum(w.share for w in report.parameters) == pytest.approx(1)
    assert report.frozen == 20
    assert len(report.state) == 3  # a step, and two moments of all small weights
    assert report.metrics == ("loss", "accuracy")
    assert {f.name: f.bytes for f in report.files} == {
        **{name: len(data) for name, data in plan.files.items()},
        "checkpoint.safetensors": len(plan.initial),
    }
    assert sum(report.operators.values()) == len(sized(plan.files["train.onnx"], 1).nodes)
    assert report.estimate is not None


def test_what_a_manifest_says_more_is_told(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(proximal=0.25))
    assert report_of(plan).more == {"proximal": 0.25}


@pytest.mark.parametrize("optimizer", ['kind = "sgd"\nlearning_rate = 0.1', 'kind = "adamw"'])
def test_the_parts_of_the_graph(optimizer: str, tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path, task(optimizer=optimizer))
    graph = sized(plan.files["train.onnx"], 10)
    parts = [(n.op, p) for n, p in zip(graph.nodes, picture.sections(graph), strict=True)]
    assert parts.count(("Gemm", picture.FORWARD)) == 2
    assert parts.count(("Gemm", picture.BACKWARD)) == 3
    assert ("Gemm", picture.OPTIMIZER) not in parts
    sums = [p for op, p in parts if op == "ReduceSum"]
    assert picture.OPTIMIZER not in sums
    assert picture.OPTIMIZER in [p for op, p in parts if op == "Sub"]


def test_a_drawing_has_every_operator_once(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    text = picture.dot(plan)
    nodes = sized(plan.files["train.onnx"], 1).nodes
    assert len(re.findall(r"^    n\d+ \[", text, re.MULTILINE)) == len(nodes)
    for part in ("forward", "backward", "optimiser"):
        assert f"subgraph cluster_{part}" in text
    assert '[label="next/w1"' in text
    assert '[label="[10, 4]"]' in text


def test_names_are_quoted(tmp_path: Path) -> None:
    made = model([node("Gemm", "x w", "out")], weights(w=(4, 3)), inputs={"x": (1, ("N", 4))})
    made.graph.initializer[0].name = HOSTILE
    made.graph.node[0].input[1] = HOSTILE
    text = picture.dot(compiled(made, tmp_path))
    assert r'label="x\"];?evil [label=\"<b>\\N"' in text
    assert "\nevil" not in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
def test_graphviz_reads_it(tmp_path: Path) -> None:
    text = picture.dot(compiled(dense(), tmp_path))
    done = subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=True)
    assert b"<svg" in done.stdout
