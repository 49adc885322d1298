"""Commands over what lives on the device: examples, and the models of local programs."""

import shutil
import sqlite3

import numpy as np
import pytest

from edge_agent.shelf import Shelf
from tests.edge_agent.commands import Command, complaint
from tests.edge_agent.local_models import adopt, version_in
from tests.edge_agent.plans import FLOWERS, LINE, flowers, manifest_of, saved
from wire.digest import hex_of


@pytest.fixture
def command(tmp_path):
    """With a hundred flowers, and a configuration that names them."""
    made = Command(tmp_path)
    made.state.create()
    saved(tmp_path / "examples", flowers(100))
    made.config.write_text(f"data.folder = '{tmp_path}/examples'\n")
    return made


def has_plan(command, plan=FLOWERS):
    """As if the agent had fetched it."""
    digest = hex_of(manifest_of(plan).digest())
    shutil.copytree(plan, command.state.cached_plans / digest)


def test_examples_are_shown_with_what_a_plan_makes_of_them(command):
    result = command("examples")
    assert result.returncode == 0
    assert "examples.npz" in result.stdout
    assert "100" in result.stdout
    has_plan(command)
    assert "100" in command("examples").stdout


def test_examples_that_do_not_fit_are_shown_with_the_reason(command, tmp_path):
    bad = flowers(3).arrays
    bad["x"][1, 2] = np.nan
    np.savez(tmp_path / "examples/bad.npz", **bad)
    has_plan(command)
    text = command("examples").stdout
    assert "bad.npz" in text
    assert "x" in text
    assert "nan" in text.lower() or "finite" in text.lower()


def test_without_a_folder_of_examples_the_key_to_set_is_told(command):
    command.config.write_text("")
    result = command("examples")
    assert "set data.folder" in complaint(result)
    assert result.returncode == 2


def test_a_file_for_local_programs_is_made_as_the_plan_wants_it(command, tmp_path):
    path = tmp_path / "examples/new.sqlite"
    result = command("examples", "--create", str(path))
    assert "in the task's plan, which is not here yet" in complaint(result)
    assert result.returncode == 2
    has_plan(command)
    result = command("examples", "--create", str(path))
    assert result.returncode == 0, result.stderr
    with sqlite3.connect(path) as database:
        columns = [row[1] for row in database.execute("pragma table_info(examples)")]
    database.close()
    assert "label" in columns
    for column in columns:
        assert column in result.stdout
    again = command("examples", "--create", str(path))
    assert again.returncode == 1
    assert "cannot be made" in complaint(again)


def test_with_several_plans_the_task_is_asked_for(command, tmp_path):
    has_plan(command)
    has_plan(command, LINE)
    path = str(tmp_path / "examples/new.sqlite")
    assert "say --task" in complaint(command("examples", "--create", path))
    task = manifest_of(LINE).task
    assert command("examples", "--task", task, "--create", path).returncode == 0


def test_trimming_deletes_what_is_not_to_be_kept_and_says_so(command, tmp_path):
    saved(tmp_path / "more", flowers(40))
    shutil.move(tmp_path / "more/examples.npz", tmp_path / "examples/newer.npz")
    result = command("examples", "--trim")
    assert "deleted 0 examples" in result.stdout
    with command.config.open("a") as file:
        file.write("data.retain.examples = 40\n")
    result = command("examples", "--trim")
    assert result.returncode == 0
    assert "deleted 100 examples, 1 whole files" in result.stdout
    assert [p.name for p in (tmp_path / "examples").iterdir()] == ["newer.npz"]


def test_deleting_all_asks_for_a_yes(command, tmp_path):
    path = tmp_path / "examples/examples.npz"
    result = command("examples", "--delete")
    assert f"every example in {tmp_path}/examples for good: say --yes" in complaint(result)
    assert result.returncode == 2
    assert path.exists()
    result = command("examples", "--delete", "--yes")
    assert result.returncode == 0
    assert "deleted 100 examples" in result.stdout
    assert not path.exists()


def test_one_thing_at_a_time(command):
    result = command("examples", "--trim", "--delete", "--yes")
    assert result.returncode == 2
    assert "not allowed with" in result.stderr


def test_models_are_shown_and_rolled_back(command):
    assert command("model").returncode == 0
    folder = command.state.models / "line"
    for version in (1, 2):
        adopt(Shelf(folder), version)
    assert "2" in command("model").stdout
    result = command("model", "--rollback", "line")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "line: local programs have version 1 now, was 2\n"
    assert version_in(folder / "current.onnx") == 1


@pytest.mark.parametrize(
    ("task", "status", "said"),
    [("line", 1, ""), ("../line", 2, "--rollback '../line'"), ("", 2, "--rollback ''")],
)
def test_a_model_that_is_not_there_cannot_be_rolled_back(command, task, status, said):
    result = command("model", "--rollback", task)
    assert said in complaint(result)
    assert result.returncode == status
