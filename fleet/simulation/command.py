"""`lamplighter simulate`: an experiment file in, tables and pictures out."""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from coordinator.cli.common import (
    EXIT_FAILED,
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    complain,
    narrow_table,
    plain,
)
from coordinator.compiler.errors import CompileError
from coordinator.taskfile import TaskFileError
from edge_agent.session import BadPlan, CannotRun
from fleet.simulation import report
from fleet.simulation.crew import WorkerDied
from fleet.simulation.experiment import ExperimentError
from fleet.simulation.preparing import Asked, Prepared, prepare
from fleet.simulation.result import Personal, Result, Version
from fleet.simulation.simulate import SimulationError, simulate
from schedules.duration import human
from wire.errors import WireError
from wire.sizes import human_size

_WIDE = 240  # columns, into a file or a pipe
_SHOWN = 12  # versions in the table at the end


def run(path: Path, asked: Asked, workers: int | None) -> int:
    """The exit status."""
    terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    out = Console(soft_wrap=False, highlight=False, width=None if terminal else _WIDE)
    err = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with _stopped_by_signals():
            return _run(path, asked, workers, out, err)
    except (ExperimentError, TaskFileError, CompileError, WireError) as error:
        return complain(error, EXIT_INPUT)
    except SimulationError as error:
        return complain(SimulationError(f"{path}: {error}"), EXIT_FAILED)
    except (WorkerDied, BadPlan, CannotRun, MemoryError, OSError) as error:
        return complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        err.print("stopped")
        return EXIT_INTERRUPTED


def _run(path: Path, asked: Asked, workers: int | None, out: Console, err: Console) -> int:
    prepared = prepare(path, asked, lambda what: out.print(plain(f"{what} ...")))
    for warning in prepared.warnings:
        err.print("[yellow]warning:[/]", plain(warning))
    folder = prepared.output
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass  # it takes files: that is not to be found out when all the work is done
    out.print(plain(_announcement(prepared)))
    versions: list[Version] = []
    started = time.monotonic()
    try:
        with _progress(out, prepared) as told:

            def on_version(version: Version) -> None:
                versions.append(version)
                told(version)

            result = simulate(
                prepared.task,
                prepared.plan,
                prepared.devices,
                seed=prepared.seed,
                test=prepared.test,
                evaluate_every=prepared.evaluate_every,
                until=prepared.until,
                workers=workers,
                on_version=on_version,
            )
    except BaseException:  # whatever it is, it is told after what was done
        if len(versions) > 1:  # hours of work, perhaps
            try:
                _tell(prepared, None, versions, time.monotonic() - started, out, err)
            except OSError as error:
                complain(error, EXIT_FAILED)
        raise
    _tell(prepared, result, versions, time.monotonic() - started, out, err)
    if not result.complete:
        err.print("[yellow]warning:[/] the fleet could not go on before all rounds were made")
    elif prepared.stop and prepared.until and not prepared.until(versions[-1]):
        goal = f"{prepared.stop.metric} {prepared.stop.at:g} was not reached"
        err.print("[yellow]warning:[/]", plain(goal))
    return 0


def _tell(
    prepared: Prepared,
    result: Result | None,
    versions: Sequence[Version],
    took: float,
    out: Console,
    err: Console,
) -> None:
    """Write and print what came of it; without a result, what was seen before it ended."""
    missing = report.write_all(
        prepared.output,
        versions,
        name=prepared.task.name,
        seed=prepared.seed,
        stop=prepared.stop,
        personal=result.personal if result else None,
        weights=result.weights if result else None,
    )
    out.print(_table(versions), crop=False)
    if result and result.personal:
        out.print(plain(_gains(result.personal)))
    last = versions[-1]
    out.print(
        plain(
            f"{last.number} versions in {human(took)}, {human(last.seconds)} of virtual time; "
            f"up {human_size(last.upload)}, down {human_size(last.download)}"
        )
    )
    for line in missing:
        err.print("[yellow]warning:[/]", plain(line))
    what = "tables, pictures and the model" if result else "tables and pictures of what was done"
    out.print(plain(f"{what}: {prepared.output}{os.sep}"))


# What is printed


def _announcement(prepared: Prepared) -> str:
    sizes = sorted(map(len, prepared.devices.shares))
    return (
        f"{prepared.task.name}: {len(sizes)} devices with {sizes[0]} to {sizes[-1]} examples each, "
        f"seed {prepared.seed}"
    )


class _Told:
    """Who hears of each version: a bar on a terminal, else a line for each."""

    def __init__(self, out: Console, bar: Progress | None, total: int) -> None:
        self._out, self._bar = out, bar
        self._total = total or None
        self._task = bar.add_task("", total=self._total) if bar else None

    def __call__(self, version: Version) -> None:
        text = _sentence(version)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=version.number, description=text)
        else:
            of = f"/{self._total}" if self._total else ""
            self._out.print(plain(f"version {version.number}{of}: {text}"))


@contextmanager
def _progress(out: Console, prepared: Prepared) -> Iterator[_Told]:
    total = prepared.task.round.rounds
    if not out.is_terminal:
        yield _Told(out, None, total)
        return
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}", markup=False)
    with Progress(*columns, text, console=out, transient=True) as bar:
        yield _Told(out, bar, total)


def _sentence(version: Version) -> str:
    figures = [f"{name} {value:.4g}" for name, value in version.test.items()]
    if not figures:
        figures = [f"devices' {name} {found.mean:.4g}" for name, found in version.devices.items()]
    return ", ".join([*figures, f"{version.updates} updates"])


def _table(versions: Sequence[Version]) -> Table:
    """The last versions, and the first: 80 columns hold two metrics."""
    metrics = list(dict.fromkeys(key for v in versions for key in v.test))
    spreads = list(dict.fromkeys(key for v in versions for key in v.devices))
    heads = ["version", *metrics]
    heads += [head for name in spreads for head in (f"devices' {name}", "worst tenth")]
    heads += ["updates", "late", "dropped"]
    table = narrow_table(heads, [head for head in heads if " " in head], heads)
    shown = versions if len(versions) <= _SHOWN else [versions[0], *versions[1 - _SHOWN :]]
    for version in shown:
        cells = [str(version.number)]
        cells += [_figure(version.test.get(name)) for name in metrics]
        for name in spreads:
            found = version.devices.get(name)
            cells.append(_figure(found.mean if found else None))
            cells.append(_figure(found.worst_decile if found else None))
        cells += [str(n) for n in (version.updates, version.late, version.dropped)]
        table.add_row(*cells)
    return table


def _gains(personal: Personal) -> str:
    return (
        f"personal versions: {personal.gaining} of {personal.devices} devices gain; "
        f"median {personal.median:+.4g}, mean {personal.mean:+.4g}"
    )


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


# How it ends


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does: in order, with what was done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
