"""`coordinator task metrics` and `task show`: what devices measure, as a person and a script read
it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.cli.evaluations import gain_said
from coordinator.client import AdminClient
from coordinator.figures import MetricView
from coordinator.spread import Gain
from fleet.clients import Device
from tests.coordinator.plans import constant, plan
from tests.coordinator.processes import one_line, run, served_process
from wire.messages import Evaluation

OWN = "personal versions of v1: 2 of 3 devices gain, median 0.125 less loss, mean 0.04167 less"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A coordinator whose devices have evaluated two versions, the newer with their own beside."""
    folder = tmp_path_factory.mktemp("metrics") / "state"
    with served_process(folder):
        asyncio.run(_evaluated(AdminClient.of_state(folder)))
        yield folder


async def _evaluated(own: AdminClient) -> None:
    async with own as admin:
        await plan(goal=1).create(admin)
        await plan("other").create(admin)
        token = await admin.token(3, 60.0)
        devices = [await Device.enroll(admin.url, token) for _ in range(3)]
        await devices[0].serve(constant(1.0))
        while (await admin.task("digits")).task.version == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        for device, gained in zip(devices, (0.25, 0.125, -0.25), strict=True):
            personal = {"loss": 1.0 - gained, "accuracy": 0.5 + gained}
            said = Evaluation(
                task="digits", version=0, examples=1200, metrics={"loss": 2.0, "accuracy": 0.25}
            )
            newer = Evaluation(
                task="digits",
                version=1,
                examples=10,
                metrics={"loss": 1.0, "accuracy": 0.5},
                personal=personal,
            )
            await device.check_in(tasks=("digits",), evaluations=(said, newer))


def said(*arguments: object, **environment: str) -> str:
    """What a command that succeeds says."""
    done = run(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_metrics_of_each_version_are_shown(state: Path):
    head, *lines = said("task", "metrics", "digits", "--state", state).splitlines()
    columns = "version metric mean deviation worst tenth worst devices examples"
    assert head.split() == columns.split()
    assert lines[0].split() == ["v0", "loss", "2", "0", "2", "2", "3", "3,600"]
    assert lines[3].split() == ["v1", "accuracy", "0.5", "0", "0.5", "0.5", "3", "30"]
    assert lines[4:] == [OWN]


@pytest.mark.parametrize("columns", ["40", "20", "5"])
def test_a_narrow_terminal_cuts_no_figure(state: Path, columns: str):
    text = said("task", "metrics", "digits", "--state", state, COLUMNS=columns)
    lines = [line.split() for line in text.splitlines() if line.startswith("v1 ")]
    assert [line[-6:] for line in lines] == [
        ["1", "0", "1", "1", "3", "30"],
        ["0.5", "0", "0.5", "0.5", "3", "30"],
    ]
    assert [line[1] for line in lines] == ["loss", "accura"]  # the rest is in the next line


def test_a_task_is_shown_with_what_devices_say_lately(state: Path):
    text = said("task", "show", "digits", "--state", state)
    assert "loss 1 (worst 1), accuracy 0.5 (worst 0.5)" in text
    assert OWN in text.splitlines()
    assert "worst tenth" not in said("task", "show", "other", "--state", state)


def test_scripts_have_json(state: Path):
    older, newer = map(
        json.loads, said("task", "metrics", "digits", "--json", "--state", state).splitlines()
    )
    assert (older["version"], newer["version"]) == (0, 1)
    assert older["metrics"][0]["personal"] is None
    assert newer["metrics"][1]["personal"] == {
        "devices": 3,
        "gaining": 2,
        "median": 0.125,
        "mean": pytest.approx(0.125 / 3),
    }
    last = said("task", "metrics", "digits", "--json", "--last", "1", "--state", state)
    assert json.loads(last) == newer
    (shown,) = said("task", "show", "digits", "--json", "--state", state).splitlines()
    assert json.loads(shown)["task"]["metrics"]["1"] == newer["metrics"]


def test_where_nobody_has_evaluated_anything_that_is_said(state: Path):
    assert "no device has evaluated" in said("task", "metrics", "other", "--state", state)
    assert said("task", "metrics", "other", "--json", "--state", state) == ""


def test_a_mistake_is_one_line(state: Path):
    wrong = run("task", "metrics", "digits", "--last", "0", "--state", state)
    assert "--last: from 1 to 1000, not 0" in one_line(wrong, 2)
    unknown = run("task", "metrics", "nothing", "--state", state)
    assert "no task 'nothing'" in one_line(unknown, 2)


@pytest.mark.parametrize(
    ("name", "better", "median", "words"),
    [
        ("accuracy", "higher", 0.041, "median +4.1 points of accuracy"),
        ("f1:logits", "higher", -0.02, "median -2.0 points of f1:logits"),
        ("rmse", "lower", 0.5, "median 0.5 less rmse"),
        ("loss", "lower", -0.25, "median 0.25 more loss"),
        ("r2", "higher", 0.5, "median +0.5 of r2"),
    ],
)
def test_a_gain_is_told_in_the_metrics_unit(name: str, better, median: float, words: str):
    view = MetricView(
        name=name,
        better=better,
        devices=40,
        examples=400,
        mean=0.5,
        deviation=0.1,
        worst=0.1,
        worst_decile=0.1,
        personal=Gain(devices=40, gaining=37, median=median, mean=0.1),
    )
    assert gain_said(view).startswith(f"37 of 40 devices gain, {words}, mean ")
