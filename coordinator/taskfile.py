"""The task file: what to train, how rounds run, who takes part. TOML, written by a person.

Unknown keys and bad values are errors that name the key, the value and what is allowed.
"""

from pathlib import Path

import msgspec

from coordinator.contradictions import problems
from coordinator.tables import AnyTask, StatisticsFile, TaskFile
from schedules.duration import Duration
from wire.errors import Rule, WireError
from wire.sizes import Size
from wire.strict import decode_toml

__all__ = [
    "TASK_FILE_LIMIT",
    "AnyTask",
    "StatisticsFile",
    "TaskFile",
    "TaskFileError",
    "load",
    "parse",
]

TASK_FILE_LIMIT = 1 << 20
_MOST_DOTS = 1000  # of a line: `a.a.a...` costs the TOML parser the square of its length in memory
_HOOKS = {Duration: Duration.parse, Size: Size.parse}


class TaskFileError(ValueError):
    """A task file that cannot be used; the message names the file, the key and what is allowed."""


_TRAINING = ("model", "loss", "optimizer")
"""The tables that only a task which trains a model has."""


def parse(text: str, source: str = "task file") -> TaskFile | StatisticsFile:
    """Read a task file's text. Raises `TaskFileError`."""
    if len(text) > TASK_FILE_LIMIT:
        raise TaskFileError(f"{source}: over {TASK_FILE_LIMIT} characters")
    if any(line.count(".") > _MOST_DOTS for line in text.splitlines()):
        raise TaskFileError(f"{source}: not TOML: a line with over {_MOST_DOTS} dots")
    try:
        task = decode_toml(text, _kind_of(text), _HOOKS)
    except WireError as error:
        raise TaskFileError(f"{source}: {error.detail}") from None
    for problem in problems(task):
        raise TaskFileError(f"{source}: {problem}")
    return task


def load(path: Path) -> TaskFile | StatisticsFile:
    """Read a task file from disk. Raises `TaskFileError`."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(TASK_FILE_LIMIT + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise TaskFileError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def _kind_of(text: str) -> type[TaskFile] | type[StatisticsFile]:
    """Which of the two a text is, well written or not. Raises `WireError` where nobody can tell."""
    try:
        tables = msgspec.toml.decode(text)
    except (ValueError, RecursionError):
        return TaskFile  # it is decoded once more, and then told what is wrong
    model = [f"[{name}]" for name in _TRAINING if name in tables]
    either = "[model], [loss] and [optimizer] say what to train, [statistics] what to gather"
    if model and "statistics" in tables:
        raise WireError(
            Rule.BAD_MESSAGE, f"[statistics] and {', '.join(model)}: {either}; a task does one"
        )
    if "name" in tables and not model and "statistics" not in tables:
        raise WireError(Rule.BAD_MESSAGE, f"nothing to do: {either}; one of them is needed")
    return StatisticsFile if "statistics" in tables else TaskFile
