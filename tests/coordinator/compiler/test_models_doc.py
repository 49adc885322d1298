"""`docs/models.md` holds the table of operators as it is, and snippets that work."""

import re
from pathlib import Path
from shutil import copyfile

import pytest

from coordinator import taskfile
from coordinator.compiler import classical
from coordinator.compiler.compile import compile_task
from coordinator.compiler.operators.table import markdown
from tests.coordinator.compiler.zoo import EXPORTED

TEXT = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
TASKS = re.findall(r"<!-- model: (\S+) -->\n```toml\n(.*?)```", TEXT, re.DOTALL)
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_table_is_what_the_code_prints() -> None:
    """`python -m coordinator.compiler.operators` prints what to put there."""
    begin, end = "<!-- operators: begin -->\n", "<!-- operators: end -->"
    assert TEXT.partition(begin)[2].partition(end)[0] == f"{markdown()}"


def test_scikit_learns_operators_are_all_named() -> None:
    told = TEXT.partition("`ai.onnx.ml`:")[2].partition("are written")[0]
    assert set(re.findall(r"[A-Z]\w+", told)) == set(classical.RULES)


@pytest.mark.parametrize(("model", "toml"), TASKS, ids=[model for model, _ in TASKS])
def test_the_tasks_compile(model: str, toml: str, tmp_path: Path) -> None:
    task = taskfile.parse(toml)
    assert isinstance(task, taskfile.TaskFile)
    copyfile(EXPORTED / f"{model}.onnx", tmp_path / task.model.file)
    assert compile_task(task, tmp_path / task.model.file).manifest.parameters


def test_every_task_says_its_model() -> None:
    assert len(TASKS) == TEXT.count("```toml") > 5


@pytest.mark.parametrize("code", CODE)
def test_the_code_is_python(code: str) -> None:
    """Torch is not here to run it: `exported/make.py` calls the exporters so."""
    compile(code, "docs/models.md", "exec")
