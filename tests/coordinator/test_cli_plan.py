"""`coordinator plan show` and what `coordinator compile` says beside the plan."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest

import fleet.digits
from coordinator.client import AdminClient
from tests.coordinator.digits import digits
from tests.coordinator.plans import plan
from tests.coordinator.processes import one_line, run, served_process

pytest.importorskip("onnx")
DIGITS = Path(fleet.digits.__file__).parent


def said(*arguments: object, **environment: str) -> str:
    """What a command that succeeds says."""
    done = run(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_plan_is_shown_to_people():
    text = said("plan", "show", DIGITS / "plan")
    for words in (
        "plan of the task digits",
        "goes in: examples",
        "0 to 9",
        "is trained: ",
        "in batches of 10",
        "train.onnx",
        "floating-point operations",
        "Raspberry Pi Zero 2 W",
        "of 200 MB",
    ):
        assert words in text


def test_a_plan_is_shown_to_scripts():
    report = json.loads(said("plan", "show", DIGITS / "plan", "--json"))
    assert report["task"] == "digits"
    assert report["digest"].startswith("sha256:")
    assert report["weights"] == sum(p["size"] for p in report["parameters"])
    assert report["estimate"]["flops"] > 0
    assert [b["board"] for b in report["estimate"]["boards"]] == [
        "Raspberry Pi 4",
        "Raspberry Pi Zero 2 W",
    ]


def test_a_running_task_is_shown(tmp_path: Path):
    made = digits(goal=1)

    async def create(own: AdminClient) -> None:
        async with own as admin:
            await made.create(admin)

    state = tmp_path / "state"
    with served_process(state):
        asyncio.run(create(AdminClient.of_state(state)))
        assert "plan of the task digits" in said("plan", "show", "digits", "--state", state)
        nothing = one_line(run("plan", "show", "other", "--state", state), 2)
        assert "no task 'other'" in nothing


def test_a_graph_is_drawn(tmp_path: Path):
    path = tmp_path / "graph.dot"
    said("plan", "show", DIGITS / "plan", "--dot", path)
    said("plan", "show", DIGITS / "plan", "--dot", path)  # its own may be drawn anew
    other = tmp_path / "task.toml"
    other.write_text("name = 1")
    text = one_line(run("plan", "show", DIGITS / "plan", "--dot", other), 2)
    assert "another file of that name" in text
    assert other.read_text() == "name = 1"
    assert path.read_text().startswith("digraph plan {")
    drawn = run("plan", "show", DIGITS / "plan", "--svg", tmp_path / "graph.svg")
    if shutil.which("dot"):
        assert (tmp_path / "graph.svg").read_bytes().startswith(b"<?xml")
    else:
        assert "dot -Tsvg graph.dot" in one_line(drawn, 2)


@pytest.mark.parametrize("source", ["/nowhere", "nowhere.toml", "./digits"])
def test_a_plan_that_is_not_there_is_one_line(source: str):
    assert source.removeprefix("./") in one_line(run("plan", "show", source), 2)


def test_a_damaged_plan_is_one_line(tmp_path: Path):
    damaged = tmp_path / "plan"
    shutil.copytree(DIGITS / "plan", damaged)
    (damaged / "train.onnx").write_bytes(b"other")
    assert "not a whole plan" in one_line(run("plan", "show", damaged), 2)


def test_a_plan_without_graphs_is_one_line(tmp_path: Path):
    made = plan()
    folder = tmp_path / "plan"
    folder.mkdir()
    for name, data in zip(made.manifest.files, made.files, strict=True):
        (folder / name).write_bytes(data)
    (folder / "manifest.json").write_bytes(made.manifest.to_bytes())
    (folder / "checkpoint.safetensors").write_bytes(made.initial)
    assert "operators" in said("plan", "show", folder)
    (folder / "train.onnx").unlink()
    assert "not a compiled plan" in one_line(run("plan", "show", folder), 2)
