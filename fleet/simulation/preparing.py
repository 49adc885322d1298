"""From an experiment's file to all that a simulation needs. What does not fit is one line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from coordinator import taskfile
from coordinator.compiler.folder import read_plan_dir
from coordinator.plans import contradictions
from coordinator.taskfile import StatisticsFile, TaskFile
from edge_agent.examples import Examples
from fleet.simulation import dealing, experiment, plan_cache, sources
from fleet.simulation.devices import Devices
from fleet.simulation.experiment import Experiment, ExperimentError, Stop
from fleet.simulation.result import Version
from wire.plan import Manifest


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says otherwise than the file."""

    seed: int | None = None
    rounds: int | None = None
    output: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All of `fleet.simulation.simulate`'s arguments; where the results go; and what is odd."""

    task: TaskFile | StatisticsFile
    plan: Path
    devices: Devices
    test: Examples | None
    seed: int
    evaluate_every: int
    stop: Stop | None
    until: Callable[[Version], bool] | None
    output: Path
    warnings: tuple[str, ...]


def prepare(path: Path, asked: Asked, say: Callable[[str], None]) -> Prepared:
    """`say` is told what takes a while. Raises `ExperimentError`, which names the file,
    `TaskFileError`, `CompileError`, `OSError`."""
    wanted = experiment.load(path)
    try:
        return _prepared(wanted, path, asked, say)
    except ExperimentError as error:
        raise ExperimentError(f"{path}: {error}") from error


def _prepared(wanted: Experiment, path: Path, asked: Asked, say: Callable[[str], None]) -> Prepared:
    base = path.parent
    output = asked.output or base / (wanted.output or f"{path.stem}-results")
    if output.exists() and not output.is_dir():
        raise ExperimentError(f"output = '{output}': there is a file of that name; name a folder")
    task = _task(wanted, base, asked.rounds)
    plan = _plan(wanted, task, base, output, say)
    manifest = read_plan_dir(plan).manifest
    if found := contradictions(task, manifest):
        raise ExperimentError(f"plan = '{plan}': not compiled from this task: {'; '.join(found)}")
    until = _until(wanted.stop, manifest)
    if until is None and task.round.rounds == 0:
        raise ExperimentError("rounds: missing: the task is without end; say how many, or stop")
    say("reading examples")
    seed = wanted.seed if asked.seed is None else asked.seed
    column = wanted.split.column if isinstance(wanted.split, experiment.Groups) else None
    rng = dealing.generator(seed, dealing.TEST)
    source = sources.read(wanted.data, base, manifest.inputs, column, rng)
    if wanted.stop:
        _check_measured(wanted, wanted.stop, source.test is not None)
    test = source.test
    return Prepared(
        task=task,
        plan=plan,
        devices=dealing.devices_of(wanted, source, manifest.inputs, seed),
        test=None if test is None else dealing.fitted(test, manifest.inputs, "data.test"),
        seed=seed,
        evaluate_every=wanted.evaluate_every if wanted.held_out else 0,
        stop=wanted.stop,
        until=until,
        output=output,
        warnings=tuple(source.warnings),
    )


def _task(wanted: Experiment, base: Path, rounds: int | None) -> TaskFile | StatisticsFile:
    task = taskfile.load(base / wanted.task)
    if (number := rounds or wanted.rounds) is None:
        return task
    return msgspec.structs.replace(task, round=msgspec.structs.replace(task.round, rounds=number))


def _plan(
    wanted: Experiment,
    task: TaskFile | StatisticsFile,
    base: Path,
    output: Path,
    say: Callable[[str], None],
) -> Path:
    if wanted.plan is not None:
        return base / wanted.plan
    say("compiling the plan")
    return plan_cache.compiled(task, (base / wanted.task).parent, output / "plans")[0]


def _check_measured(wanted: Experiment, stop: Stop, tested: bool) -> None:
    if stop.over == "test" and not tested:
        raise ExperimentError("stop.over = 'test': the data have no test set; or over = 'devices'")
    if stop.over == "devices" and not (wanted.held_out and wanted.evaluate_every):
        raise ExperimentError(
            "stop.over = 'devices': held_out and evaluate_every: expected both above 0"
        )


def _until(stop: Stop | None, manifest: Manifest) -> Callable[[Version], bool] | None:
    if stop is None:
        return None
    better = {metric.name: metric.better for metric in manifest.metrics}
    if stop.metric not in better:
        allowed = ", ".join(map(repr, better))
        raise ExperimentError(f"stop.metric = {stop.metric!r}: expected one of {allowed}")
    higher = better[stop.metric] == "higher"

    def until(version: Version) -> bool:
        if stop.over == "test":
            found = version.test.get(stop.metric)
        else:
            spread = version.devices.get(stop.metric)
            found = None if spread is None else spread.mean
        return found is not None and (found >= stop.at if higher else found <= stop.at)

    return until
