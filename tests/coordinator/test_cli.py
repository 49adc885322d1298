"""The `coordinator` command, as a person runs it."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fleet.digits
from coordinator.cli.common import EXIT_FAILED, complain
from coordinator.client import AdminClient
from fleet.clients import Device
from tests.coordinator.plans import constant, plan
from tests.coordinator.processes import one_line, run, served_process

DIGITS = Path(fleet.digits.__file__).parent
HOSTILE = "[/][31m[red] name"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A coordinator that runs, with a task of two rounds and a device of a hostile name."""
    folder = tmp_path_factory.mktemp("cli") / "state"
    with served_process(folder):
        asyncio.run(_some_history(AdminClient.of_state(folder)))
        yield folder


async def _some_history(own: AdminClient) -> None:
    async with own as admin:
        await plan(goal=1).create(admin)
        token = await admin.token(2, 60.0)
        device = await Device.enroll(admin.url, token, name="pi", labels={"site": "north"})
        await device.serve(constant(1.0))
        while (await admin.tasks())[0].version == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await Device.enroll(admin.url, token, name=HOSTILE, labels={"[bold]": "[/bold]"})


def said(*arguments: object) -> str:
    """What a command that succeeds says."""
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_tasks_are_listed(state: Path):
    text = said("task", "list", "--state", state)
    assert "digits" in text
    assert "running" in text
    assert "v1" in text
    assert "0/1" in text


def test_a_task_is_shown_with_its_rounds(state: Path):
    text = said("task", "show", "digits", "--state", state)
    assert "digits: running, model version 1" in text
    assert "closed" in text
    assert "goal" in text
    assert "15 weights" in text


def test_devices_are_listed_and_cannot_paint_the_terminal(state: Path):
    text = said("devices", "--state", state)
    assert "site=north" in text
    assert "\x1b" not in text
    assert "[/]" in text
    assert "[red]" in text
    assert "[bold]=[/bold]" in text


def test_a_token_is_alone_on_standard_output(state: Path):
    done = run("token", "--state", state, "--uses", 3, "--expires", "2h")
    token = done.stdout.strip()
    assert done.stdout == f"{token}\n"
    assert token.startswith("join-")
    assert "edge-agent enroll" in done.stderr


def test_another_machine_asks_by_url(state: Path):
    url = json.loads((state / "endpoint.json").read_text())["url"]
    asked = ("task", "list", "--url", url)
    assert "digits" in said(*asked, "--token-file", state / "admin.token")
    assert "--token-file" in one_line(run(*asked), 2)
    assert "/nowhere" in one_line(run(*asked, "--token-file", "/nowhere"), 2)
    (state.parent / "wrong").write_text("wrong")
    refused = one_line(run(*asked, "--token-file", state.parent / "wrong"), 1)
    assert "admin token" in refused


def test_a_task_is_created_exported_and_stopped(state: Path, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    definition = tmp_path / "task.toml"
    definition.write_text((DIGITS / "digits.toml").read_text())
    clash = run("task", "create", definition, "--plan", DIGITS / "plan", "--state", state)
    assert "there is a task 'digits'" in one_line(clash, 2)
    other = state.parent / "other"
    with served_process(other):
        created = said("task", "create", definition, "--plan", DIGITS / "plan", "--state", other)
        assert "weights, round 1 waits for devices" in created
        model = tmp_path / "out.onnx"
        assert "model version 0" in said("export", "digits", "-o", model, "--state", other)
        onnx.checker.check_model(onnx.load(model))
        assert "stopped" in said("task", "stop", "digits", "--state", other)
        hostile = one_line(run("task", "show", "[red]", "--state", other), 2)
        assert "'[red]' is no task's name" in hostile


def test_a_task_is_compiled_into_a_folder(tmp_path: Path):
    pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    done = run("compile", DIGITS / "digits.toml", "-o", tmp_path / "plan")
    if done.returncode:  # no training build here
        one_line(done, 2)
    else:
        assert "weights" in done.stdout
        assert re.search(
            r"coded as uniform:8: about \d.* expect \|error\|\^2 of about 0\.0", done.stdout
        )
        assert (tmp_path / "plan" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("task", "list", "--state", "/nowhere"), 1, "no coordinator runs over /nowhere"),
        (("compile", "/nowhere.toml"), 2, "cannot be read"),
        (("token", "--expires", "soon"), 2, "--expires"),
        (("export", "other"), 2, "no task 'other'"),
    ],
)
def test_a_mistake_is_one_line(state: Path, arguments: tuple[str, ...], status: int, words: str):
    assert words in one_line(run(*arguments, COORDINATOR_STATE=str(state)), status)


def test_a_bad_task_file_is_one_line_with_its_brackets(state: Path, tmp_path: Path):
    file = tmp_path / "task.toml"
    file.write_text(plan().definition.replace('"cross_entropy"', '"[/hinge]"'))
    text = one_line(run("task", "create", file, "--state", state), 2)
    assert "[/hinge]" in text
    assert "cross_entropy" in text


def test_a_coordinator_that_is_gone_is_one_line(tmp_path: Path):
    (tmp_path / "endpoint.json").write_text('{"url": "http://127.0.0.1:9"}')
    (tmp_path / "admin.token").write_text("token")
    assert "does not answer" in one_line(run("task", "list", "--state", tmp_path), 1)


def test_an_error_without_words_has_its_name(capsys: pytest.CaptureFixture[str]):
    assert complain(MemoryError(), EXIT_FAILED) == EXIT_FAILED
    assert capsys.readouterr().err == "error: MemoryError\n"


def test_help_names_every_command():
    text = said("--help")
    for command in ("serve", "compile", "export", "devices", "token", "task"):
        assert command in text
