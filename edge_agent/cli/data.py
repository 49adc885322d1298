"""Commands over what lives here: examples, and the models of local programs."""

import argparse
import os
import time
from pathlib import Path

from edge_agent.cli.common import EXIT_FAILED, Commands, command, config_of, state_of
from edge_agent.config import Config
from edge_agent.errors import ConfigError, StateError
from edge_agent.shelf import Shelf, tell
from edge_agent.state import StateFolder
from schedules.clock import SystemClock
from wire.errors import WireError
from wire.messages import Identifier
from wire.plan import Input, parse_manifest
from wire.strict import convert


def add_commands(commands: Commands) -> None:
    """To the parser."""
    examples = command(commands, "examples", _examples, "show the examples that live here")
    action = examples.add_mutually_exclusive_group()
    examples.add_argument("--task", help="of this task alone")
    action.add_argument(
        "--create", type=Path, metavar="FILE", help="make an SQLite file for local programs"
    )
    action.add_argument("--trim", action="store_true", help="delete what data.retain does not keep")
    action.add_argument("--delete", action="store_true", help="delete all of them, for good")
    examples.add_argument("--yes", action="store_true", help="with --delete: yes, all")

    model = command(commands, "model", _model, "show the models that local programs have")
    model.add_argument("--rollback", metavar="TASK", help="go back to the model before")


async def _examples(arguments: argparse.Namespace) -> int:
    config, state = config_of(arguments), state_of(arguments)
    if arguments.create:
        return _create(arguments, config, state)
    folders = _folders(config, arguments.task)
    if arguments.delete:
        return _delete(folders, arguments.yes)
    if arguments.trim:
        return _trim(folders, config)
    from edge_agent.examples.summary import describe

    for task, folder in folders.items():
        inputs = _inputs(state, task)
        limits = config.data.retain.limits()
        print(describe(folder, inputs, config.data.columns, limits, time.time()).text())
    return 0


def _folders(config: Config, task: str | None) -> dict[str | None, Path]:
    """The folder of each task that has its own, and of all others under `None`. Raises
    `ConfigError` when there is none."""
    named = [task] if task else [None, *config.data.tasks]
    found = {n: config.data.folder_of(n or "") for n in named}
    folders = {n: folder for n, folder in found.items() if folder}
    if not folders:
        raise ConfigError("the configuration names no folder of examples: set data.folder")
    return folders


def _inputs(state: StateFolder, task: str | None) -> tuple[Input, ...] | None:
    """What a task's newest plan wants; `None` when that is not known, or not clear."""
    found: dict[str, tuple[Input, ...]] = {}
    for path in sorted(state.cached_plans.glob("*/manifest.json"), key=_age):
        try:
            manifest = parse_manifest(path.read_bytes())
        except (OSError, WireError):
            continue
        found[manifest.task] = manifest.inputs
    if task is None and len(found) == 1:
        return next(iter(found.values()))
    return found.get(task or "")


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _create(arguments: argparse.Namespace, config: Config, state: StateFolder) -> int:
    from edge_agent.examples.sqlite_store import create_store

    inputs = _inputs(state, arguments.task)
    if inputs is None:
        raise ConfigError(
            "which columns a file needs is in the task's plan, which is not here yet (or, with "
            "several tasks, say --task): let the agent check in first"
        )
    try:
        print(create_store(arguments.create, inputs, config.data.columns))
    except (OSError, ValueError) as error:
        raise StateError(f"{arguments.create} cannot be made: {error}") from None
    return 0


def _trim(folders: dict[str | None, Path], config: Config) -> int:
    from edge_agent.examples.trimming import enforce

    problems: list[str] = []
    for folder in folders.values():
        went = enforce(folder, config.data.retain.limits(), time.time())
        print(f"{folder}: deleted {went.examples:,} examples, {went.files:,} whole files")
        problems += went.problems
    return _tell_problems(problems)


def _delete(folders: dict[str | None, Path], yes: bool) -> int:
    from edge_agent.examples.trimming import forget

    if not yes:
        names = ", ".join(map(str, folders.values()))
        raise ConfigError(f"this deletes every example in {names} for good: say --yes, too")
    problems: list[str] = []
    for folder in folders.values():
        went = forget(folder)
        print(f"{folder}: deleted {went.examples:,} examples, {went.files:,} whole files")
        problems += went.problems
    return _tell_problems(problems)


def _tell_problems(problems: list[str]) -> int:
    for problem in problems:
        print(f"  {problem}")
    return EXIT_FAILED if problems else 0


async def _model(arguments: argparse.Namespace) -> int:
    state = StateFolder(arguments.state)
    if arguments.rollback or not os.access(state.models, os.R_OK):  # its group may read them, too
        state = state_of(arguments)
    if arguments.rollback is None:
        print(tell(state.models))
        return 0
    try:
        task = convert(arguments.rollback, Identifier)
    except WireError as error:
        raise ConfigError(f"--rollback {arguments.rollback!r}: {error.detail}") from None
    try:
        now = SystemClock().now().isoformat(timespec="seconds")
        current, before = Shelf(state.models / task).rollback(now)
    except OSError as error:
        raise StateError(f"the model of {task} stays as it is: {error}") from None
    was = f", was {before.version}" if before else ""
    print(f"{task}: local programs have version {current.version} now{was}")
    return 0
